"""Comparison of a window of requests with a reference: of every feature, with p-values corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, rankdata

from llmops.monitoring.drift import clusters
from llmops.monitoring.drift.feature_comparison import compare_categories, compare_numbers, find_changed_shares
from llmops.monitoring.drift.sample import FEATURES, Feature, Sample

FALSE_DISCOVERY_RATE = 0.05  #: false discovery rate of the comparisons (Benjamini and Hochberg 1995)
MIN_EFFECT = 0.02  #: smaller differences are not drift, however significant
MAX_UNLIKE = 20  #: most requests listed as unlike the reference

_SCRIPT = Feature("prompt", "script", "category")

Embed = Callable[[Sequence[str]], NDArray[np.float32]]  #: texts → their vectors, of length one


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a window with the reference."""

    side: str
    feature: str
    test: str
    statistic: float
    effect: float  #: the population stability index minus chance
    p_value: float
    q_value: float = math.nan
    drifted: bool = False
    shares: dict[str, Any] = field(default_factory=dict)
    topics: tuple[str, ...] = ()  #: topics whose share differs, the largest difference first
    unlike: tuple[str, ...] = ()  #: ids of the requests least like the reference


def compare_samples(reference: Sample, window: Sample, seed: int = 0, embed: Embed | None = None) -> list[Comparison]:
    """Return all possible comparisons; deterministic for the same samples and seed.

    Args:
        reference: what the window is compared with.
        window: the requests to compare.
        seed: seed of samples, clusters and tests.
        embed: makes the vectors of stored prompts; None: their words are compared. Prompts that are not mostly in Latin
            script are compared by their words in any case, because the model has learned English.
    """
    reference, window = reference.draw(seed), window.draw(seed)
    comparisons = [
        comparison for feature in FEATURES if (comparison := _compare_feature(feature, reference, window, seed))
    ]
    if prompts := _compare_prompts(reference, window, seed, embed):
        comparisons.append(prompts)
    return add_q_values(comparisons)


def add_q_values(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Add q-values, and mark each comparison as drifted if it is significant and large enough to matter."""
    if not comparisons:
        return []
    q_values = false_discovery_control([comparison.p_value for comparison in comparisons])
    return [
        replace(
            comparison, q_value=float(q), drifted=bool(q <= FALSE_DISCOVERY_RATE and comparison.effect >= MIN_EFFECT)
        )
        for comparison, q in zip(comparisons, q_values, strict=True)
    ]


def _compare_feature(feature: Feature, reference: Sample, window: Sample, seed: int) -> Comparison | None:
    old, new = reference.columns[feature], window.columns[feature]
    shift = compare_numbers(old, new) if feature.kind == "number" else compare_categories(old, new, seed)
    if shift is None:
        return None
    changed = find_changed_shares(old, new, FALSE_DISCOVERY_RATE) if feature.name == "topics" else []
    return Comparison(feature.side, feature.name, *shift[:4], shares=shift.shares, topics=tuple(n for n, *_ in changed))


def _compare_prompts(reference: Sample, window: Sample, seed: int, embed: Embed | None) -> Comparison | None:
    """Compare the prompts as a whole: by their texts if both sides have most of them, else by all features together."""
    old, new = reference.rows_with_texts, window.rows_with_texts
    if min(len(old), len(new)) >= max(1, len(window) // 2):
        name, texts = "texts", ([reference.texts[n] for n in old], [window.texts[n] for n in new])
        rows = [embed(side) for side in texts] if embed and _is_latin(reference) else clusters.embed_words(*texts, seed)
    elif len(reference) and len(window):
        name, new, table = "features", list(range(len(window))), _vectorize(reference, window)
        rows = table[: len(reference)], table[len(reference) :]
    else:
        return None
    if not (result := clusters.compare_clusters(rows[0], rows[1], seed)):
        return None
    unlike = [window.ids[new[n]] for n in result.unlike[:MAX_UNLIKE]]
    return Comparison("prompt", name, "clusters", *result[:3], unlike=tuple(filter(None, unlike)))


def _is_latin(sample: Sample) -> bool:
    scripts = sample.columns[_SCRIPT]
    return scripts.count("Latin") >= len(scripts) / 2


def _vectorize(reference: Sample, window: Sample) -> NDArray[np.float64]:
    """Return the prompts' features as rows of length about 1: numbers as ranks, a column per category."""
    columns: list[NDArray[np.float64]] = []
    for feature in FEATURES:
        if feature.side != "prompt":
            continue
        values = reference.columns[feature] + window.columns[feature]
        if feature.kind == "number":
            numbers = np.array([math.nan if value is None else value for value in values], np.float64)
            ranks = rankdata(numbers, nan_policy="omit") / len(values) - 0.5
            ranks = np.where(np.isfinite(numbers), ranks, 0.0)
            columns += [ranks, ranks**2 * 2]
        else:
            names = sorted({value for value in values if value is not None})
            columns += [np.array([float(value == name) for value in values]) for name in names]
    table = np.stack(columns, axis=1)
    rows: NDArray[np.float64] = table / np.sqrt((table**2).sum(axis=1).mean() or 1.0)
    return rows
