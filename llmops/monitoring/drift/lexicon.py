"""Words and topics of a version's training data. The texts of its requests are compared with them.

Words are hash numbers, so no name can be read from a lexicon. It is made anew from the training split in the version's
lineage whenever it is needed: there is no stored copy for an erasure to find.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmops.data.text.words import number_of, words_of
from llmops.frame.errors import LlmopsError
from llmops.monitoring.drift.topics import Topics, bucket_all, name_topics, topics_of
from llmops.release.lineage import DATASET, read_lineage
from llmops.release.registry.version import Version

log = logging.getLogger(__name__)

MOST_EXAMPLES = 20_000  #: a larger split is sampled evenly, to limit the time to seconds


class TrainingRow(NamedTuple):
    """The columns that are read of a training example."""

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

    def unknown_share(self, words: Sequence[str]) -> float | None:
        """Return the share of words that the training data lack; None without words. Words with digits do not count."""
        asked = np.array([number_of(word) for word in words if not any(map(str.isdigit, word))], np.uint32)
        if not len(asked):
            return None
        at = np.minimum(np.searchsorted(self.words, asked), max(0, len(self.words) - 1))
        known = self.words[at] == asked if len(self.words) else np.zeros(len(asked), bool)
        return round(1 - float(known.mean()), 4)

    def nearest(self, words: Sequence[str], side: Literal["prompt", "answer"]) -> tuple[str, ...]:
        """See `Topics.nearest`: among the questions or the answers."""
        return (self.prompt if side == "prompt" else self.answer).nearest(words)


def lexicon_of(examples: Iterable[TrainingRow]) -> Lexicon:
    """Return words and topics of training examples."""
    known: set[int] = set()
    questions, answers, groups, sources = [], [], [], []
    for example in examples:
        question, answer = words_of(example.question), words_of(example.answer)
        known.update(number_of(word) for part in (question, answer, words_of(example.context)) for word in part)
        questions.append(question)
        answers.append(answer)
        groups.append(example.group)
        sources.append(example.source)
    names = name_topics(groups, sources)
    words = np.array(sorted(known), np.uint32)
    return Lexicon(words, topics_of(bucket_all(questions), names), topics_of(bucket_all(answers), names))


def load_version_lexicon(version: Version, artifacts: Path) -> Lexicon | None:
    """Return words and topics of a version's training data; None, with a log line, if they are not on this machine."""
    try:
        return read_lexicon(find_training_split(version, artifacts))
    except (LlmopsError, ModuleNotFoundError, OSError, ValueError) as error:
        log.warning("The training data of %s are not known here (%s); features do without them", version.name, error)
        return None


def find_training_split(version: Version, artifacts: Path) -> Path:
    """Return the path of the training split in a version's lineage. The file may have been removed.

    Raises:
        RegistryError: if the version has no lineage.
    """
    return artifacts / str(read_lineage(version)["dataset"]["artifact"]) / DATASET


def read_lexicon(train: Path) -> Lexicon:
    """Return words and topics of a training split.

    Raises:
        OSError: if the file does not exist.
    """
    return lexicon_of(read_training_examples(train))


def read_training_examples(train: Path, most: int = MOST_EXAMPLES) -> Iterable[TrainingRow]:
    """Yield the examples of a training split, or an even sample if there are more than `most`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(train) as file:
        step = -(-file.metadata.num_rows // most)
        position = 0
        for batch in file.iter_batches(batch_size=2_000, columns=list(TrainingRow._fields)):
            chosen = range(-position % step, len(batch), step) if step > 1 else range(len(batch))
            position += len(batch)
            for row in batch.take(pa.array(chosen, pa.int64())).to_pylist():
                yield TrainingRow(**row)
