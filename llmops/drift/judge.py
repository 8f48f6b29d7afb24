"""The judgement of a window of requests against a reference: all comparisons, corrected for their number."""

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

LEVEL = 0.05  #: false discovery rate of the comparisons (Benjamini and Hochberg 1995)
LEAST_INDEX = 0.02  #: smaller differences are not drift, however significant
LEAST_AUC = 0.52
EXAMPLES = 20  #: most requests listed as unlike the reference


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a window with the reference."""

    side: str
    feature: str
    test: str
    statistic: float
    effect: float  #: the population stability index minus chance; for the classifier its AUC
    p_value: float
    q_value: float = math.nan
    drifted: bool = False
    shares: dict[str, Any] = field(default_factory=dict)
    topics: tuple[str, ...] = ()  #: topics whose share differs, the largest difference first
    unlike: tuple[str, ...] = ()  #: ids of the requests least like the reference


def compare(reference: Sample, window: Sample, seed: int = 0) -> list[Comparison]:
    """Return all possible comparisons; deterministic for the same samples and seed."""
    reference, window = reference.drawn(seed), window.drawn(seed)
    found = [one for feature in FEATURES if (one := _feature(feature, reference, window, seed))]
    if told := _compare_prompts(reference, window, seed):
        found.append(told)
    return judged(found)


def judged(found: Sequence[Comparison]) -> list[Comparison]:
    """Add q-values, and mark each comparison as drifted if it is significant and large enough to matter."""
    if not found:
        return []
    q_values = false_discovery_control([one.p_value for one in found])
    made = []
    for one, q in zip(found, q_values, strict=True):
        least = LEAST_AUC if one.test == "domain_classifier" else LEAST_INDEX
        made.append(replace(one, q_value=float(q), drifted=bool(q <= LEVEL and one.effect >= least)))
    return made


def _feature(feature: Feature, reference: Sample, window: Sample, seed: int) -> Comparison | None:
    ours, theirs = reference.columns[feature], window.columns[feature]
    if feature.kind == "number":
        found = comparisons.numbers(ours, theirs)
    else:
        found = comparisons.categories(ours, theirs, seed)
    if found is None:
        return None
    moved = comparisons.moved(ours, theirs, LEVEL) if feature.name == "topics" else []
    return Comparison(feature.side, feature.name, *found[:4], shares=found.shares, topics=tuple(n for n, *_ in moved))


def _compare_prompts(reference: Sample, window: Sample, seed: int) -> Comparison | None:
    """Compare the prompts as a whole: by their texts if both sides have them, else by all features together."""
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


def _vectors(reference: Sample, window: Sample) -> NDArray[np.float64]:
    """Return the prompts' features as rows of length about 1: numbers as ranks, a column per category."""
    columns: list[NDArray[np.float64]] = []
    for feature in FEATURES:
        if feature.side != "prompt":
            continue
        values = reference.columns[feature] + window.columns[feature]
        if feature.kind == "number":
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
