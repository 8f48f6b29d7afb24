"""A set of requests as columns of features: of training data, or of events of the dataset `llmops.text`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.drift.features import Features, features, is_refusal
from llmops.drift.lexicon import Lexicon, Side, Trained, lexicon_of, read_trained
from llmops.monitoring.datasets import TEXT
from llmops.monitoring.reader import Reader
from llmops.records import write_table

MOST = 5_000  #: requests of a set that are compared: of more, so many are drawn
_FOLDS = 5


Kind = Literal["number", "least", "category"]  #: `least`: a number that is compared for being less


class Feature(NamedTuple):
    """What is compared."""

    side: Side
    name: str
    kind: Kind

    @property
    def field(self) -> str:
        """As a field of an event."""
        return f"llmops.{self.side}.{self.name}"


_KINDS: tuple[tuple[str, Kind], ...] = (
    ("characters", "number"),
    ("words", "number"),
    ("unknown_share", "number"),
    ("language", "category"),
    ("script", "category"),
    ("topics", "category"),
    ("fit", "least"),
)
SIDES: tuple[Side, ...] = ("prompt", "answer")
REFUSAL = Feature("answer", "refusal", "category")
FEATURES = (*(Feature(side, *kind) for side in SIDES for kind in _KINDS), REFUSAL)


@dataclass(frozen=True, slots=True)
class Sample:
    """A set of requests."""

    columns: dict[Feature, list[Any]]  #: a value of each request; None where it has none
    ids: list[str]  #: of the requests; empty strings where they are none
    texts: list[str]  #: the prompts, where they are kept; else empty strings

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def with_texts(self) -> list[int]:
        """The rows whose texts are kept."""
        return [n for n, text in enumerate(self.texts) if text]

    def drawn(self, seed: int) -> Sample:
        """At most `MOST` requests of it."""
        if len(self) <= MOST:
            return self
        return self.rows(sorted(np.random.default_rng(seed).permutation(len(self))[:MOST].tolist()))

    def rows(self, chosen: Sequence[int]) -> Sample:
        """Some of its requests."""
        columns = {feature: [values[n] for n in chosen] for feature, values in self.columns.items()}
        return Sample(columns, [self.ids[n] for n in chosen], [self.texts[n] for n in chosen])


def of_events(reader: Reader, since: str, until: str, version: str = "") -> Sample:
    """The requests of a time, of one version or of all."""
    fields = ["llmops.model.version", "http.request.id", "llmops.prompt.text", *(f.field for f in FEATURES)]
    rows = [row for row in reader.columns(TEXT, fields, since, until) if not version or row[0] == version]
    columns = {feature: [_value(feature, row[n]) for row in rows] for n, feature in enumerate(FEATURES, 3)}
    return Sample(columns, [str(row[1] or "") for row in rows], [str(row[2] or "") for row in rows])


def of_training(train: Path) -> Sample:
    """The examples of a training split, each told by words and topics of the others: as what is asked is, too.

    Raises:
        OSError: if it is not there any more.
    """
    return of_examples(list(read_trained(train)))


def of_examples(examples: Sequence[Trained]) -> Sample:
    """As `of_training`. With words and topics of its own an example would know all of its words.

    How well they fit is not told: that of the examples that a lexicon is made of depends on one another, so that a
    difference from requests would seem surer than it is.
    """
    told: dict[Side, list[Features | None]] = {side: [None] * len(examples) for side in SIDES}
    folds = min(_FOLDS, len(examples))
    for fold in range(folds):
        chosen = range(fold, len(examples), folds)
        others = [example for n, example in enumerate(examples) if n % folds != fold]
        lexicon = lexicon_of(others) if others else None
        for side in SIDES:
            texts = [examples[n].question if side == "prompt" else examples[n].answer for n in chosen]
            for n, found in zip(chosen, features(texts, lexicon, side), strict=True):
                told[side][n] = replace(found, fit=None)
    columns = {
        feature: [_value(feature, getattr(found, feature.name)) for found in told[feature.side]]
        for feature in FEATURES
        if feature != REFUSAL
    }
    columns[REFUSAL] = [_value(REFUSAL, is_refusal(example.answer)) for example in examples]
    return Sample(columns, [""] * len(examples), [example.question for example in examples])


def of_prompts(texts: Sequence[str], lexicon: Lexicon | None, keep: bool) -> Sample:
    """Prompts without answers; `keep`: with their texts."""
    told = features(texts, lexicon)
    columns: dict[Feature, list[Any]] = {
        feature: [_value(feature, getattr(found, feature.name)) if feature.side == "prompt" else None for found in told]
        for feature in FEATURES
    }
    return Sample(columns, [str(n) for n in range(len(texts))], list(texts) if keep else [""] * len(texts))


def write(path: Path, sample: Sample) -> None:
    """Keep the features of a sample, without texts and without whose they are."""
    write_table(path, pa.table({feature.field: values for feature, values in sample.columns.items()}))


def read(path: Path) -> Sample:
    """What `write` has kept; what an earlier release did not tell of requests is not known."""
    table = pq.read_table(path)
    kept, unknown = set(table.column_names), [None] * table.num_rows
    columns: dict[Feature, list[Any]] = {
        feature: table.column(feature.field).to_pylist() if feature.field in kept else [*unknown]
        for feature in FEATURES
    }
    return Sample(columns, [""] * table.num_rows, [""] * table.num_rows)


def with_texts(sample: Sample, texts: Sequence[str]) -> Sample:
    """A sample that was read, with the texts that are still kept of it; none if they are not those of its requests."""
    return replace(sample, texts=list(texts)) if len(texts) == len(sample) else sample


def _value(feature: Feature, value: Any) -> Any:
    """As it is compared: of the topics the nearest."""
    if feature.kind != "category" or value is None:
        return None if value is None else float(value)
    if feature.name == "topics":
        values = json.loads(value) if isinstance(value, str) and value.startswith("[") else value
        values = [values] if isinstance(values, str) else values
        return str(values[0]) if values else None
    return str(bool(value)).lower() if feature == REFUSAL else str(value)
