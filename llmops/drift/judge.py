"""Whether a window of requests differs from a reference, and in what: all comparisons of it, judged together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, rankdata

from llmops.drift import classifier, comparisons
from llmops.drift.sample import FEATURES, Feature, Sample

LEVEL = 0.05  #: of the comparisons that are said to differ, so many do not (Benjamini and Hochberg 1995)
LEAST_INDEX = 0.02  #: differences below it are not called drift, however sure they are
LEAST_AUC = 0.52
_APART = 0.02  #: share of requests by which two sides may differ in how many have a value
EXAMPLES = 20  #: requests that are named as the most unlike


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a window with the reference."""

    side: str
    feature: str
    test: str
    statistic: float
    effect: float  #: the population stability index, less chance; of the classifier and of `fit` an AUC
    p_value: float
    q_value: float = math.nan
    drifted: bool = False
    shares: dict[str, Any] = field(default_factory=dict)
    topics: tuple[str, ...] = ()  #: whose share differs, the largest difference first
    unlike: tuple[str, ...] = ()  #: the most unlike the reference


def compare(reference: Sample, window: Sample, seed: int = 0) -> list[Comparison]:
    """All comparisons that can be made; the same for the same samples and seed."""
    reference, window = reference.drawn(seed), window.drawn(seed)
    found = [one for feature in FEATURES if (one := _feature(feature, reference, window, seed))]
    if told := _whole(reference, window, seed):
        found.append(told)
    return judged(found)


def judged(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their q-values, and whether each differs: sure enough, and large enough to matter."""
    if not found:
        return []
    q_values = false_discovery_control([one.p_value for one in found])
    made = []
    for one, q in zip(found, q_values, strict=True):
        least = LEAST_INDEX if one.test in ("ks", "chi_square") else LEAST_AUC
        made.append(replace(one, q_value=float(q), drifted=bool(q <= LEVEL and one.effect >= least)))
    return made


def _feature(feature: Feature, reference: Sample, window: Sample, seed: int) -> Comparison | None:
    ours, theirs = reference.columns[feature], window.columns[feature]
    if feature.kind == "category":
        found = comparisons.categories(ours, theirs, seed)
    else:
        found = (comparisons.less if feature.kind == "least" else comparisons.numbers)(ours, theirs)
    if found is None:
        return None
    moved = comparisons.moved(ours, theirs, LEVEL) if feature.name == "topics" else []
    return Comparison(feature.side, feature.name, *found[:4], shares=found.shares, topics=tuple(n for n, *_ in moved))


def _whole(reference: Sample, window: Sample, seed: int) -> Comparison | None:
    """The prompts as a whole: by their texts where both sides keep them, else by their features together."""
    ours, theirs = reference.with_texts, window.with_texts
    if min(len(ours), len(theirs)) >= max(classifier.PARTS, len(window) // 2):
        rows = classifier.of_texts([reference.texts[n] for n in ours], [window.texts[n] for n in theirs], seed)
        told, name = classifier.tell_apart(*rows, seed=seed), "texts"
        unlike = [window.ids[theirs[n]] for n in told.unlike]
    elif min(len(reference), len(window)) >= classifier.PARTS:
        table = _vectors(reference, window)
        told, name = classifier.tell_apart(table[: len(reference)], table[len(reference) :], seed=seed), "features"
        unlike = [window.ids[n] for n in told.unlike]
    else:
        return None
    named = tuple(id for id in unlike[:EXAMPLES] if id)
    return Comparison("prompt", name, "domain_classifier", told.auc, told.auc, told.p_value, unlike=named)


def _known_alike(*sides: Sequence[Any]) -> bool:
    """Whether a feature is known of about as many requests on both sides: what is not known would tell them apart.

    It is not, where a part of one side is older than the feature.
    """
    shares = [np.mean([value is not None for value in side]) if side else 0.0 for side in sides]
    return bool(min(shares) > 0 and max(shares) - min(shares) <= _APART)


def _vectors(reference: Sample, window: Sample) -> NDArray[np.float64]:
    """The features of the prompts as rows of about length 1: numbers by their ranks, a column per category."""
    columns = [np.zeros(len(reference) + len(window))]  # for prompts of which nothing is known
    for feature in FEATURES:
        sides = reference.columns[feature], window.columns[feature]
        if feature.side != "prompt" or not _known_alike(*sides):
            continue
        values = [*sides[0], *sides[1]]
        if feature.kind != "category":
            known = np.array([math.nan if value is None else value for value in values], np.float64)
            ranks = rankdata(known, nan_policy="omit") / len(values) - 0.5
            ranks = np.where(np.isfinite(known), ranks, 0.0)
            columns += [ranks, ranks**2 * 2]
        else:
            names = sorted({value for value in values if value is not None})
            columns += [np.array([float(value == name) for value in values]) for name in names]
    table = np.stack(columns, axis=1)
    rows: NDArray[np.float64] = table / np.sqrt((table**2).sum(axis=1).mean() or 1.0)
    return rows
