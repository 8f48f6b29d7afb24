"""A test whether a classifier can separate two sets of requests better than by chance.

The classifier two-sample test (Friedman 2003; Lopez-Paz and Oquab 2017, arXiv:1610.06545) with ridge regression on the
labels, cross-fitted. The classifier is fitted again for every permutation of the labels, all at once, so the p-value
is exact for any texts. Labels are permuted within the folds of the cross-fitting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

Floats = NDArray[np.float64]

FOLDS = 5  #: of the cross-fitting
PERMUTATIONS = 399
RIDGE = 1.0  #: penalty, for rows of length about 1
BUCKETS = 2**14  #: hash buckets of words, and of pieces of words; time and memory grow with them
DIMENSIONS = 128  #: dimensions that the n-grams of both sets are reduced to (latent semantic analysis)


class Separation(NamedTuple):
    """The result of the test."""

    auc: float  #: probability that a window row scores as more window-like than a reference row; 0.5: no difference
    p_value: float
    unlike: list[int]  #: rows of the window, the least like the reference first


def separate(reference: Floats, window: Floats, seed: int = 0) -> Separation:
    """Fit a classifier that separates two sets of rows, and judge it on held-out rows.

    Args:
        reference: a row per request, of length about 1; at least `FOLDS` rows.
        window: likewise.
        seed: seed of the folds and the permutations.
    """
    rng = np.random.default_rng(seed)
    sizes = len(reference), len(window)
    rows = np.concatenate([reference, window])
    rows = rows - rows.mean(axis=0)
    labels = np.repeat([0.0, 1.0], sizes)
    folds = np.concatenate([rng.permutation(np.arange(size) % FOLDS) for size in sizes])
    all_labels = np.repeat(labels[:, None], 1 + PERMUTATIONS, axis=1)
    for fold in range(FOLDS):
        members = np.flatnonzero(folds == fold)
        all_labels[members, 1:] = rng.permuted(all_labels[members, 1:], axis=0)
    scores = _score_held_out(rows, all_labels, folds)
    aucs = _compute_aucs(scores, all_labels)
    p_value = (1 + int((aucs[1:] >= aucs[0] - 1e-12).sum())) / (1 + PERMUTATIONS)
    order = np.argsort(-scores[sizes[0] :, 0], kind="stable")
    return Separation(float(aucs[0]), p_value, order.tolist())


def embed_texts(reference: Sequence[str], window: Sequence[str], seed: int = 0) -> tuple[Floats, Floats]:
    """Return rows for `separate`: tf-idf of hashed words, word pairs and character n-grams, in `DIMENSIONS`."""
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
    weights = sparse.hstack(tables).tocsr()
    if not weights.nnz:
        return np.zeros((len(reference), 1)), np.zeros((len(window), 1))
    dimensions = min(DIMENSIONS, len(texts) - 1)
    rows = _project(weights, dimensions, np.random.default_rng(seed))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 1e-9, lengths, 1.0)
    return rows[: len(reference)], rows[len(reference) :]


def _project(table: sparse.csr_matrix, count: int, rng: np.random.Generator) -> Floats:
    """Project rows onto the `count` directions of most variance, by a random sketch and two rounds.

    Halko, Martinsson and Tropp 2011, arXiv:0909.4061. The bases span the rows, the shorter side.
    """
    sketch_size = min(count + 10, table.shape[0])
    base = np.linalg.qr(table @ rng.normal(size=(table.shape[1], sketch_size)))[0]
    for _ in range(2):
        base = np.linalg.qr(table @ (table.T @ base))[0]
    projected = table.T @ base
    sizes, rotation = np.linalg.eigh(projected.T @ projected)
    rows: Floats = base @ (rotation[:, ::-1] * np.sqrt(np.maximum(sizes[::-1], 0.0)))[:, :count]
    return rows


def _score_held_out(rows: Floats, labels: Floats, folds: NDArray[np.intp]) -> Floats:
    """Return each row's score from ridge regression fitted to the other parts; a column per column of labels."""
    centred = labels - labels.mean(axis=0)  # the share of each label is the same in all parts
    products, targets = rows.T @ rows, rows.T @ centred
    scores = np.empty_like(labels)
    for fold in range(FOLDS):
        own = rows[folds == fold]
        others = products - own.T @ own + RIDGE * np.eye(rows.shape[1])
        scores[folds == fold] = own @ np.linalg.solve(others, targets - own.T @ centred[folds == fold])
    return scores


def _compute_aucs(scores: Floats, labels: Floats) -> Floats:
    """Return the area under the ROC curve of each column (Mann and Whitney 1947)."""
    ranks = rankdata(np.round(scores, 9), axis=0)  # equal rows must be equal whatever the order of addition
    ones = labels.sum(axis=0)
    areas: Floats = ((ranks * labels).sum(axis=0) - ones * (ones + 1) / 2) / (ones * (len(labels) - ones))
    return areas
