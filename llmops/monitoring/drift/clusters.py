"""A test whether two sets of requests are about the same things: both are clustered together, their shares compared.

The clustering does not know which request is of which set. So the p-value, by permutations of the sets, is exact. If
the rows are vectors of a sentence model, a new topic of 1 % of the requests stands alone in a small cluster. Large
clusters show that a known topic grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import MiniBatchKMeans
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from llmops.monitoring.drift.comparisons import stability_index

Rows = NDArray[np.floating]

MEAN_SIZES = 25, 125  #: requests of a cluster, both sets together; the clustering that says more counts
PERMUTATIONS = 999
BUCKETS = 2**14  #: hash buckets of words, and of pieces of words; time and memory grow with them
DIMENSIONS = 128  #: dimensions that the n-grams of both sets are reduced to (latent semantic analysis)


class Separation(NamedTuple):
    """The result of the test."""

    statistic: float  #: chi-square of the clusters' shares, in standard deviations from its mean over permutations
    effect: float  #: the population stability index of the clusters, minus chance
    p_value: float
    unlike: list[int]  #: rows of the window, those of the most grown clusters first


def separate(reference: Rows, window: Rows, seed: int = 0) -> Separation | None:
    """Cluster two sets of rows together, and compare how many of each set the clusters have.

    Return None if the rows are too few for two clusters, or all equal.

    Args:
        reference: a row per request, of length about 1.
        window: likewise.
        seed: seed of the clustering and the permutations.
    """
    rows = np.concatenate([reference, window])
    count, in_window = len(rows), np.arange(len(rows)) >= len(reference)
    if count < 2 * MEAN_SIZES[0]:
        return None
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)  # otherwise the clustering would depend on the sets
    sides = np.stack([in_window, *(rng.permutation(in_window) for _ in range(PERMUTATIONS))], axis=1).astype(np.float64)
    labels = np.empty((len(MEAN_SIZES), count), np.int64)
    tables, scores = [], []
    for number, size in enumerate(MEAN_SIZES):
        clustering = MiniBatchKMeans(max(2, count // size), n_init=1, random_state=seed)
        labels[number, order] = clustering.fit_predict(rows[order])
        counts = sparse.csr_array((np.ones(count), (labels[number], np.arange(count)))) @ sides
        expected = np.bincount(labels[number])[:, None] * len(window) / count
        tables.append((counts[:, 0], expected[:, 0]))
        scores.append(_standardize(((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=0)))
    highest = np.max(scores, axis=0)
    if not highest.any():
        return None
    p_value = (1 + int((highest[1:] >= highest[0] - 1e-9).sum())) / (1 + PERMUTATIONS)
    best = int(np.argmax([score[0] for score in scores]))
    now, expected_now = tables[best]
    growth = (now - expected_now) / np.sqrt(np.maximum(expected_now, 1e-9))
    unlike = np.argsort(-growth[labels[best, in_window]], kind="stable").tolist()
    before = np.bincount(labels[best, ~in_window], minlength=len(now))
    return Separation(float(highest[0]), stability_index(before, now.astype(np.int64)), p_value, unlike)


def _standardize(values: Rows) -> Rows:
    """Return values less their mean, in standard deviations; 0 if all are equal."""
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def embed_words(reference: Sequence[str], window: Sequence[str], seed: int = 0) -> tuple[Rows, Rows]:
    """Return rows for `separate` without a model: hashed words, word pairs and pieces of words, in `DIMENSIONS`."""
    texts = [*reference, *window]
    tables = [
        TfidfTransformer(sublinear_tf=True).fit_transform(vectorizer.transform(texts))
        for vectorizer in (
            HashingVectorizer(ngram_range=(1, 2), n_features=BUCKETS, alternate_sign=False, norm=None),
            HashingVectorizer(
                analyzer="char_wb", ngram_range=(3, 5), n_features=2**18, alternate_sign=False, norm=None
            ),
        )
    ]
    table = sparse.hstack(tables).tocsr()
    left, sizes, _ = randomized_svd(table, min(DIMENSIONS, len(texts)), n_iter=2, random_state=seed)
    rows = normalize(left * sizes)
    return rows[: len(reference)], rows[len(reference) :]
