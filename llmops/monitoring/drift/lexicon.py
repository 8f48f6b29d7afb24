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

from llmops.data.text.words import hash_word, split_words
from llmops.frame.errors import LlmopsError, RegistryError
from llmops.monitoring.drift.topics import Topics, build_topics, count_all_buckets, name_topics
from llmops.release.lineage import DATASET, read_lineage
from llmops.release.registry.version import Version

log = logging.getLogger(__name__)

MAX_EXAMPLES = 20_000  #: a larger split is sampled evenly, to limit the time to seconds


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

    def compute_unknown_share(self, words: Sequence[str]) -> float | None:
        """Return the share of words that the training data lack; None without words. Words with digits do not count."""
        numbers = np.array([hash_word(word) for word in words if not any(map(str.isdigit, word))], np.uint32)
        if not len(numbers):
            return None
        positions = np.minimum(np.searchsorted(self.words, numbers), max(0, len(self.words) - 1))
        is_known = self.words[positions] == numbers if len(self.words) else np.zeros(len(numbers), bool)
        return round(1 - float(is_known.mean()), 4)

    def find_nearest(self, words: Sequence[str], side: Literal["prompt", "answer"]) -> tuple[str, ...]:
        """See `Topics.find_nearest`: among the questions or the answers."""
        return (self.prompt if side == "prompt" else self.answer).find_nearest(words)


def build_lexicon(examples: Iterable[TrainingRow]) -> Lexicon:
    """Return words and topics of training examples."""
    word_numbers: set[int] = set()
    questions, answers, groups, sources = [], [], [], []
    for example in examples:
        question, answer = split_words(example.question), split_words(example.answer)
        word_numbers.update(
            hash_word(word) for part in (question, answer, split_words(example.context)) for word in part
        )
        questions.append(question)
        answers.append(answer)
        groups.append(example.group)
        sources.append(example.source)
    names = name_topics(groups, sources)
    words = np.array(sorted(word_numbers), np.uint32)
    return Lexicon(
        words, build_topics(count_all_buckets(questions), names), build_topics(count_all_buckets(answers), names)
    )


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
        RegistryError: if the version has no lineage, or was not trained.
    """
    if not (artifact := str(read_lineage(version)["dataset"]["artifact"])):
        raise RegistryError("it was not trained")
    return artifacts / artifact / DATASET


def read_lexicon(train: Path) -> Lexicon:
    """Return words and topics of a training split.

    Raises:
        OSError: if the file does not exist.
    """
    return build_lexicon(read_training_examples(train))


def read_training_examples(train: Path, max_examples: int = MAX_EXAMPLES) -> Iterable[TrainingRow]:
    """Yield the examples of a training split, or an even sample if there are more than `max_examples`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(train) as file:
        step = -(-file.metadata.num_rows // max_examples)
        position = 0
        for batch in file.iter_batches(batch_size=2_000, columns=list(TrainingRow._fields)):
            chosen = range(-position % step, len(batch), step) if step > 1 else range(len(batch))
            position += len(batch)
            for row in batch.take(pa.array(chosen, pa.int64())).to_pylist():
                yield TrainingRow(**row)
