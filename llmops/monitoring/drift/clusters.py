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

from llmops.monitoring.drift.feature_comparison import compute_stability_index

RowVectors = NDArray[np.floating]

MEAN_CLUSTER_SIZES = 25, 125  #: requests of a cluster, both sets together; a clustering of each size
PERMUTATIONS = 999
HASH_BUCKETS = 2**14  #: hash buckets of words, and of pieces of words; time and memory grow with them
DIMENSIONS = 128  #: dimensions that the n-grams of both sets are reduced to (latent semantic analysis)


class ClusterShift(NamedTuple):
    """The result of the test."""

    statistic: float  #: sum over both clusterings of chi-square, in standard deviations from its mean by chance
    effect: float  #: the population stability index of the clustering with the larger chi-square, minus chance
    p_value: float
    unlike: list[int]  #: rows of the window, those of the most grown clusters first


def compare_clusters(reference: RowVectors, window: RowVectors, seed: int = 0) -> ClusterShift | None:
    """Cluster two sets of rows together, and compare how many of each set the clusters have.

    Return None if a set has fewer rows than a small cluster, or all rows are equal.

    Args:
        reference: a row per request, of length about 1.
        window: likewise.
        seed: seed of the clustering and the permutations.
    """
    rows = np.concatenate([reference, window])
    count, in_window = len(rows), np.arange(len(rows)) >= len(reference)
    if min(len(reference), len(window)) < MEAN_CLUSTER_SIZES[0]:
        return None
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)  # otherwise the clustering would depend on the sets
    sides = np.stack([in_window, *(rng.permutation(in_window) for _ in range(PERMUTATIONS))], axis=1).astype(np.float64)
    clusterings = np.empty((len(MEAN_CLUSTER_SIZES), count), np.int64)
    for labels, size in zip(clusterings, MEAN_CLUSTER_SIZES, strict=True):
        clustering = MiniBatchKMeans(max(2, count // size), n_init=1, random_state=seed)
        labels[order] = clustering.fit_predict(rows[order])
    scores = np.stack([_compute_scores(labels, sides) for labels in clusterings])
    sums = scores.sum(axis=0)
    if not sums.any():
        return None
    p_value = (1 + int((sums[1:] >= sums[0] - 1e-9).sum())) / (1 + PERMUTATIONS)
    labels = clusterings[scores[:, 0].argmax()]
    before, now = (np.bincount(labels[side], minlength=labels.max() + 1) for side in (~in_window, in_window))
    expected = (before + now) * len(window) / count
    growth = (now - expected) / np.sqrt(np.maximum(expected, 1e-9))
    unlike = np.argsort(-growth[labels[in_window]], kind="stable").tolist()
    return ClusterShift(float(sums[0]), compute_stability_index(before, now), p_value, unlike)


def _compute_scores(labels: NDArray[np.int64], sides: RowVectors) -> RowVectors:
    """Return chi-square of the clusters' shares for each column of `sides`, in standard deviations from its mean."""
    members = sparse.csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))))
    expected = np.bincount(labels)[:, None] * sides[:, 0].mean()
    values: RowVectors = ((members @ sides - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=0)
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def embed_words(reference: Sequence[str], window: Sequence[str], seed: int = 0) -> tuple[RowVectors, RowVectors]:
    """Return vectors without a model: of hashed words, word pairs and pieces of words, reduced to `DIMENSIONS`."""
    texts = [*reference, *window]
    tables = [
        TfidfTransformer(sublinear_tf=True).fit_transform(vectorizer.transform(texts))
        for vectorizer in (
            HashingVectorizer(ngram_range=(1, 2), n_features=HASH_BUCKETS, alternate_sign=False, norm=None),
            HashingVectorizer(
                analyzer="char_wb", ngram_range=(3, 5), n_features=2**18, alternate_sign=False, norm=None
            ),
        )
    ]
    table = sparse.hstack(tables).tocsr()
    left, sizes, _ = randomized_svd(table, min(DIMENSIONS, len(texts)), n_iter=2, random_state=seed)
    rows = normalize(left * sizes)
    return rows[: len(reference)], rows[len(reference) :]
