"""What words and topics the training data of a version have: what its requests are compared with, text by text.

Words are kept as numbers, so that nobody is named in it. It is made of the training split that the version's lineage
names, whenever it is needed: there is no copy that an erasure would have to reach.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmops.data.text.words import number_of, words_of
from llmops.drift.fit import Fit, fit_of
from llmops.drift.topics import Topics, all_buckets, names_of, topics_of
from llmops.errors import LlmopsError
from llmops.registry.version import Version
from llmops.release.lineage import DATASET, lineage

log = logging.getLogger(__name__)

Side = Literal["prompt", "answer"]

MOST_EXAMPLES = 20_000  #: of more, every second, third … is taken: some seconds' work


class Trained(NamedTuple):
    """What is read of a training example."""

    question: str
    answer: str
    context: str
    group: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """Words and topics of some training data."""

    words: NDArray[np.uint32]  #: sorted
    prompt: Topics
    answer: Topics
    fits: Mapping[Side, Fit]

    def unknown_share(self, words: Sequence[str]) -> float | None:
        """The share of some words that the training data do not have; None without words. Numbers do not count."""
        asked = np.array([number_of(word) for word in words if not any(map(str.isdigit, word))], np.uint32)
        if not len(asked):
            return None
        at = np.minimum(np.searchsorted(self.words, asked), max(0, len(self.words) - 1))
        known = self.words[at] == asked if len(self.words) else np.zeros(len(asked), bool)
        return round(1 - float(known.mean()), 4)

    def nearest(self, words: Sequence[str], side: Side) -> tuple[str, ...]:
        """See `Topics.nearest`: among what is asked, or among what is answered."""
        return (self.prompt if side == "prompt" else self.answer).nearest(words)

    def fit(self, words: Sequence[str], side: Side) -> float | None:
        """See `Fit.of`: with what is asked, or with what is answered."""
        return self.fits[side].of(words)


def lexicon_of(examples: Iterable[Trained]) -> Lexicon:
    """Words and topics of training examples."""
    known: set[int] = set()
    questions, answers, groups, sources = [], [], [], []
    for example in examples:
        question, answer = words_of(example.question), words_of(example.answer)
        known.update(number_of(word) for part in (question, answer, words_of(example.context)) for word in part)
        questions.append(question)
        answers.append(answer)
        groups.append(example.group)
        sources.append(example.source)
    names = names_of(groups, sources)
    words = np.array(sorted(known), np.uint32)
    fits: dict[Side, Fit] = {"prompt": fit_of(questions, groups), "answer": fit_of(answers, groups)}
    return Lexicon(words, topics_of(all_buckets(questions), names), topics_of(all_buckets(answers), names), fits)


def version_lexicon(version: Version, artifacts: Path) -> Lexicon | None:
    """Words and topics of what a version was trained on; None, and a line in the log, if that is not to be had here.

    Args:
        version: whose.
        artifacts: their folder.
    """
    try:
        return read_lexicon(train_of(version, artifacts))
    except (LlmopsError, OSError, ValueError, ImportError) as error:
        log.warning("The training data of %s are not known here (%s); features do without them", version.name, error)
        return None


def train_of(version: Version, artifacts: Path) -> Path:
    """The training split that a version's lineage names; it may have been removed since.

    Raises:
        RegistryError: if the version has no lineage.
    """
    return artifacts / str(lineage(version)["dataset"]["artifact"]) / DATASET


def read_lexicon(train: Path) -> Lexicon:
    """Words and topics of the training split of an annotate artifact.

    Raises:
        OSError: if there is none.
    """
    return lexicon_of(read_trained(train))


def read_trained(train: Path, most: int = MOST_EXAMPLES) -> Iterable[Trained]:
    """The examples of a training split, of many an even sample of at most `most`."""
    import pyarrow as pa  # not above: the serving image for CPUs goes without
    import pyarrow.parquet as pq

    with pq.ParquetFile(train) as file:
        every = -(-file.metadata.num_rows // most)
        at = 0
        for batch in file.iter_batches(batch_size=2_000, columns=list(Trained._fields)):
            chosen = range(-at % every, len(batch), every) if every > 1 else range(len(batch))
            at += len(batch)
            for row in batch.take(pa.array(chosen, pa.int64())).to_pylist():
                yield Trained(**row)
