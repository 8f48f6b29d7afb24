"""A set of requests as columns of features, from training data or from `llmops.text` events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.events.datasets import TEXT
from llmops.events.reader import Reader
from llmops.frame.records import write_table
from llmops.monitoring.drift.features import Features, Side, extract_features, is_refusal
from llmops.monitoring.drift.lexicon import Lexicon, TrainingRow, build_lexicon, read_training_examples

MAX_REQUESTS = 5_000  #: most requests that are compared; a larger set is sampled at random
_FOLDS = 5


class Feature(NamedTuple):
    """One compared feature."""

    side: Side
    name: str
    kind: Literal["number", "category"]

    @property
    def field(self) -> str:
        """Return the feature's name in events."""
        return f"llmops.{self.side}.{self.name}"


_KINDS: tuple[tuple[str, Literal["number", "category"]], ...] = (
    ("characters", "number"),
    ("words", "number"),
    ("unknown_share", "number"),
    ("language", "category"),
    ("script", "category"),
    ("topics", "category"),
)
SIDES: tuple[Side, ...] = ("prompt", "answer")
REFUSAL = Feature("answer", "refusal", "category")
LABEL = Feature("answer", "label", "category")
CONFIDENCE = Feature("answer", "confidence", "number")
OF_CLASSIFIERS = (LABEL, CONFIDENCE)  #: features of the answers of classifiers only
FEATURES = (*(Feature(side, *kind) for side in SIDES for kind in _KINDS), REFUSAL, *OF_CLASSIFIERS)


@dataclass(frozen=True, slots=True)
class Sample:
    """A set of requests."""

    columns: dict[Feature, list[Any]]  #: per feature, a value of each request; None if missing
    ids: list[str]  #: ids of the requests; empty strings if there are none
    texts: list[str]  #: the prompts if stored, else empty strings

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def rows_with_texts(self) -> list[int]:
        """Return the rows with stored texts."""
        return [n for n, text in enumerate(self.texts) if text]

    def draw(self, seed: int) -> Sample:
        """Return a random sample of at most `MAX_REQUESTS` requests."""
        if len(self) <= MAX_REQUESTS:
            return self
        return self.select_rows(sorted(np.random.default_rng(seed).permutation(len(self))[:MAX_REQUESTS].tolist()))

    def select_rows(self, chosen: Sequence[int]) -> Sample:
        """Return the sample of the chosen rows."""
        columns = {feature: [values[n] for n in chosen] for feature, values in self.columns.items()}
        return Sample(columns, [self.ids[n] for n in chosen], [self.texts[n] for n in chosen])


def read_event_sample(reader: Reader, since: str, until: str, version: str = "") -> Sample:
    """Return the requests of a period, of one version or all."""
    fields = ["llmops.model.version", "http.request.id", "llmops.prompt.text", *(f.field for f in FEATURES)]
    rows = [row for row in reader.select(TEXT, fields, since, until) if not version or row[0] == version]
    columns = {feature: [_make_comparable(feature, row[n]) for row in rows] for n, feature in enumerate(FEATURES, 3)}
    return Sample(columns, [str(row[1] or "") for row in rows], [str(row[2] or "") for row in rows])


def build_training_sample(train: Path, classifies: bool = False) -> Sample:
    """Return a sample of the examples of a training split, with their labels if a classifier was trained.

    Raises:
        OSError: if the file no longer exists.
    """
    examples = list(read_training_examples(train))
    sample = build_example_sample(examples)
    labels = [example.answer if classifies else None for example in examples]
    return replace(sample, columns=sample.columns | {LABEL: labels})


def build_example_sample(examples: Sequence[TrainingRow]) -> Sample:
    """Return a sample of examples, with features from a lexicon of the other folds: some words must be unknown."""
    extracted: dict[Side, list[Features | None]] = {side: [None] * len(examples) for side in SIDES}
    folds = min(_FOLDS, len(examples))
    for fold in range(folds):
        chosen = range(fold, len(examples), folds)
        others = [example for n, example in enumerate(examples) if n % folds != fold]
        lexicon = build_lexicon(others) if others else None
        for side in SIDES:
            texts = [examples[n].question if side == "prompt" else examples[n].answer for n in chosen]
            for n, features in zip(chosen, extract_features(texts, lexicon, side), strict=True):
                extracted[side][n] = features
    columns = {
        feature: [_make_comparable(feature, getattr(features, feature.name)) for features in extracted[feature.side]]
        for feature in FEATURES
        if feature not in (REFUSAL, *OF_CLASSIFIERS)
    }
    columns |= {feature: [None] * len(examples) for feature in OF_CLASSIFIERS}
    columns[REFUSAL] = [_make_comparable(REFUSAL, is_refusal(example.answer)) for example in examples]
    return Sample(columns, [""] * len(examples), [example.question for example in examples])


def build_prompt_sample(texts: Sequence[str], lexicon: Lexicon | None, keep_texts: bool) -> Sample:
    """Return prompts without answers, with their texts if `keep_texts`."""
    extracted = extract_features(texts, lexicon)
    columns: dict[Feature, list[Any]] = {
        feature: [
            _make_comparable(feature, getattr(features, feature.name)) if feature.side == "prompt" else None
            for features in extracted
        ]
        for feature in FEATURES
    }
    return Sample(columns, [str(n) for n in range(len(texts))], list(texts) if keep_texts else [""] * len(texts))


def write_sample(path: Path, sample: Sample) -> None:
    """Write the features of a sample, without texts and request ids."""
    write_table(path, pa.table({feature.field: values for feature, values in sample.columns.items()}))


def read_sample(path: Path) -> Sample:
    """Read a sample from `write_sample`."""
    table = pq.read_table(path)
    columns = {  # one that was written before a feature existed lacks it
        feature: table.column(feature.field).to_pylist()
        if feature.field in table.column_names
        else [None] * table.num_rows
        for feature in FEATURES
    }
    return Sample(columns, [""] * table.num_rows, [""] * table.num_rows)


def add_texts(sample: Sample, texts: Sequence[str]) -> Sample:
    """Return a stored sample with its texts; unchanged if their number differs from the sample's."""
    return replace(sample, texts=list(texts)) if len(texts) == len(sample) else sample


def _make_comparable(feature: Feature, value: Any) -> Any:
    """Return the value in its compared form; of several topics the nearest."""
    if feature.kind == "number" or value is None:
        return None if value is None else float(value)
    if feature.name == "topics":
        values = json.loads(value) if isinstance(value, str) and value.startswith("[") else value
        values = [values] if isinstance(values, str) else values
        return str(values[0]) if values else None
    return str(bool(value)).lower() if feature == REFUSAL else str(value)
