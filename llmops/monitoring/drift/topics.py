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

from llmops.data.text.words import number_of

NO_TOPIC = "none"  #: the topic of a text that is near no topic
BUCKETS = 8_192  #: hash buckets of words and word pairs
NEAR = 0.15  #: least cosine of a near topic
NEAREST = 3  #: most topics of a text
LEAST_EXAMPLES = 3  #: smaller groups are no topic
MOST_TOPICS = 300
_NAME_CHARS = 80

Buckets = dict[int, int]  #: bucket → how often a text has it


@dataclass(frozen=True, slots=True, eq=False)
class Topics:
    """Topics and their mean vectors."""

    names: tuple[str, ...]
    weights: NDArray[np.float32]  #: (buckets,): inverse document frequencies
    means: NDArray[np.float32]  #: (topics, buckets): of unit length

    def nearest(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the topics nearest to a text of these words, nearest first; `(NO_TOPIC,)` if none is near."""
        at, values = _vector(buckets_of(words), self.weights)
        if not self.names or not len(at):
            return (NO_TOPIC,)
        near = self.means[:, at] @ values
        order = np.argsort(-near, kind="stable")[:NEAREST]
        return tuple(self.names[n] for n in order if near[n] >= NEAR) or (NO_TOPIC,)


def topics_of(texts: Sequence[Buckets], names: Sequence[str]) -> Topics:
    """Return the topics of some texts."""
    seen: Counter[int] = Counter()
    for text in texts:
        seen.update(text.keys())
    weights = np.zeros(BUCKETS, np.float32)
    for bucket in range(BUCKETS):  # unseen buckets weigh most, which keeps texts of other words far from every topic
        weights[bucket] = math.log((1 + len(texts)) / (1 + seen[bucket])) + 1
    kept = sorted(dict(Counter(names).most_common(MOST_TOPICS)))
    rows = {name: n for n, name in enumerate(kept)}
    means = np.zeros((len(kept), BUCKETS), np.float32)
    for text, name in zip(texts, names, strict=True):
        if name in rows:
            at, values = _vector(text, weights)
            means[rows[name], at] += values
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    return Topics(tuple(kept), weights, means)


def name_topics(groups: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the topic of each example: its group if that has enough examples, else its source.

    A group of one or two may be a person, an order or a single answer. Its name is not a topic.
    """
    counts = Counter(groups)
    return [
        (group if counts[group] >= LEAST_EXAMPLES else source)[:_NAME_CHARS]
        for group, source in zip(groups, sources, strict=True)
    ]


def buckets_of(words: Sequence[str]) -> Buckets:
    """Return the buckets of a text's words and word pairs."""
    counts: defaultdict[int, int] = defaultdict(int)
    previous = 0
    for word in words:
        number = number_of(word)
        counts[number % BUCKETS] += 1
        counts[number_of(word, previous) % BUCKETS] += 1
        previous = number
    return dict(counts)


def bucket_all(texts: Iterable[Sequence[str]]) -> list[Buckets]:
    """Return `buckets_of` each text."""
    return [buckets_of(words) for words in texts]


def _vector(text: Buckets, weights: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    buckets = np.fromiter(text.keys(), np.int64, len(text))
    counts = np.fromiter(text.values(), np.float32, len(text))
    values = (1 + np.log(counts)) * weights[buckets]
    return buckets, (values / max(float(np.linalg.norm(values)), 1e-9)).astype(np.float32)
