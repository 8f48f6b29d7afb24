"""The judgement of a window of requests against a reference: all comparisons, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, rankdata

from llmops.monitoring.drift import classifier
from llmops.monitoring.drift.comparisons import compare_categories, compare_numbers, find_changed_shares
from llmops.monitoring.drift.sample import FEATURES, Feature, Sample

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
    reference, window = reference.draw(seed), window.draw(seed)
    found = [one for feature in FEATURES if (one := _compare_feature(feature, reference, window, seed))]
    if whole := _compare_prompts(reference, window, seed):
        found.append(whole)
    return add_q_values(found)


def add_q_values(found: Sequence[Comparison]) -> list[Comparison]:
    """Add q-values, and mark each comparison as drifted if it is significant and large enough to matter."""
    if not found:
        return []
    q_values = false_discovery_control([one.p_value for one in found])
    made = []
    for one, q in zip(found, q_values, strict=True):
        least = LEAST_AUC if one.test == "domain_classifier" else LEAST_INDEX
        made.append(replace(one, q_value=float(q), drifted=bool(q <= LEVEL and one.effect >= least)))
    return made


def _compare_feature(feature: Feature, reference: Sample, window: Sample, seed: int) -> Comparison | None:
    old, new = reference.columns[feature], window.columns[feature]
    found = compare_numbers(old, new) if feature.kind == "number" else compare_categories(old, new, seed)
    if found is None:
        return None
    changed = find_changed_shares(old, new, LEVEL) if feature.name == "topics" else []
    return Comparison(feature.side, feature.name, *found[:4], shares=found.shares, topics=tuple(n for n, *_ in changed))


def _compare_prompts(reference: Sample, window: Sample, seed: int) -> Comparison | None:
    """Compare the prompts as a whole: by their texts if both sides have them, else by all features together."""
    old, new = reference.rows_with_texts, window.rows_with_texts
    if min(len(old), len(new)) >= max(classifier.FOLDS, len(window) // 2):
        rows = classifier.embed_texts([reference.texts[n] for n in old], [window.texts[n] for n in new], seed)
        result, name = classifier.separate(*rows, seed=seed), "texts"
        unlike = [window.ids[new[n]] for n in result.unlike]
    elif min(len(reference), len(window)) >= classifier.FOLDS:
        table = _vectorize(reference, window)
        result, name = classifier.separate(table[: len(reference)], table[len(reference) :], seed=seed), "features"
        unlike = [window.ids[n] for n in result.unlike]
    else:
        return None
    named = tuple(id for id in unlike[:EXAMPLES] if id)
    return Comparison("prompt", name, "domain_classifier", result.auc, result.auc, result.p_value, unlike=named)


def _vectorize(reference: Sample, window: Sample) -> NDArray[np.float64]:
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
