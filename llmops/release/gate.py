"""The gate: is the candidate better than its opponent, on the same items, beyond chance?

A paired bootstrap (Efron and Tibshirani 1993, ch. 13; Koehn 2004 for language systems): the differences of the same
items are resampled, by topic (see `statistics.intervals`). The candidate is promoted if

1. the lower bound of the primary metric's difference is above `min_effect`,
2. no guardrail is inferior: the lower bound of its difference is above minus its margin (non-inferiority),
3. no floor is broken: the candidate's own mean reaches it.

Fewer items or topics than asked for: inconclusive. Everything else: rejected. Pure functions, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmops.config import Release
from llmops.errors import ArtifactError, ConfigError
from llmops.statistics import intervals

Outcome = Literal["promoted", "rejected", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Scores:
    """What one model scored on the test items."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]  #: topic of each item
    values: Mapping[str, Sequence[float]]  #: metric → one value per item


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of candidate and opponent."""

    metric: str
    role: Literal["primary", "guardrail"]
    candidate: float  #: mean over the items
    opponent: float  #: mean over the items
    difference: float
    low: float  #: bounds of the interval of the difference
    high: float
    bound: float  #: `low` must be above this
    passed: bool


@dataclass(frozen=True, slots=True)
class Floor:
    """An absolute value that the candidate must reach."""

    metric: str
    value: float
    floor: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided, with its numbers."""

    outcome: Outcome
    opponent: str  #: "base" or a version
    reasons: tuple[str, ...]
    items: int
    groups: int
    confidence: float
    resamples: int
    seed: int
    comparisons: tuple[Comparison, ...]
    floors: tuple[Floor, ...]


def decide(candidate: Scores, opponent: Scores, config: Release, opponent_name: str) -> Decision:
    """Compare the candidate with its opponent.

    Args:
        candidate, opponent: scores on the same items; their order does not matter.
        config: metrics, margins, floors and the bootstrap's size.
        opponent_name: "base" or the champion's version, for the reasons.

    Raises:
        ArtifactError: if the items differ, are double, or a value is no finite number.
        ConfigError: if a metric that the configuration names was not measured.
    """
    wanted = dict.fromkeys([config.primary, *config.guardrails, *config.floors])
    ours, theirs = _table(candidate, wanted, "candidate"), _table(opponent, wanted, opponent_name)
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ArtifactError(
            f"candidate and {opponent_name} did not answer the same items ({len(odd)} differ, e.g. {odd[0]}); "
            "run `llmops run evaluate` again."
        )
    ids = sorted(ours)
    topic = dict(zip(candidate.ids, candidate.groups, strict=True))
    topics = [topic[i] for i in ids]
    a, b = (np.array([table[i] for i in ids]).reshape(len(ids), len(wanted)) for table in (ours, theirs))
    column = {metric: n for n, metric in enumerate(wanted)}

    few = _too_few(len(ids), len(set(topics)), config)
    roles: list[tuple[str, Literal["primary", "guardrail"], float]] = [(config.primary, "primary", config.min_effect)]
    roles += [(metric, "guardrail", -margin) for metric, margin in config.guardrails.items()]
    comparisons: list[Comparison] = []
    if ids:
        differences = {metric: intervals.mean((a - b)[:, column[metric]].tolist()) for metric, *_ in roles}
        drawn = intervals.sample(differences, topics, config.bootstrap, config.seed)
        for metric, role, bound in roles:
            mine, other = (float(side[:, column[metric]].mean()) for side in (a, b))
            low, high = intervals.bounds(drawn[metric], config.confidence)
            comparisons.append(Comparison(metric, role, mine, other, mine - other, low, high, bound, low > bound))
    floors = [
        Floor(metric, value := float(a[:, column[metric]].mean()), floor, value >= floor)
        for metric, floor in config.floors.items()
        if ids
    ]
    failed = [_words(c, opponent_name, config.confidence) for c in comparisons if not c.passed]
    failed += [f"{f.metric} {f.value:.3f} is below the floor {f.floor:g}" for f in floors if not f.passed]
    outcome: Outcome = "inconclusive" if few else "rejected" if failed else "promoted"
    reasons = few or failed or [_words(c, opponent_name, config.confidence) for c in comparisons]
    return Decision(
        outcome=outcome,
        opponent=opponent_name,
        reasons=tuple(reasons),
        items=len(ids),
        groups=len(set(topics)),
        confidence=config.confidence,
        resamples=config.bootstrap,
        seed=config.seed,
        comparisons=tuple(comparisons),
        floors=tuple(floors),
    )


def _table(scores: Scores, metrics: Mapping[str, None], name: str) -> dict[str, list[float]]:
    if missing := [m for m in metrics if m not in scores.values]:
        known = ", ".join(sorted(scores.values))
        raise ConfigError(f"The gate needs {missing[0]!r}, which is not measured per item; there are {known}.")
    if len(set(scores.ids)) != len(scores.ids):
        double = next(i for i in scores.ids if scores.ids.count(i) > 1)
        raise ArtifactError(f"{name} has two answers for the item {double}; run `llmops run evaluate` again.")
    table: dict[str, list[float]] = {i: [] for i in scores.ids}
    for metric in metrics:
        for item, value in zip(scores.ids, scores.values[metric], strict=True):
            if not np.isfinite(value):
                raise ArtifactError(f"{metric} of {name} for the item {item} is {value}, no number to decide on.")
            table[item].append(float(value))
    return table


def _too_few(items: int, groups: int, config: Release) -> list[str]:
    few = []
    if items < config.min_items:
        few.append(f"{items} test items, the gate needs {config.min_items} (release.min_items)")
    if groups < config.min_groups:
        few.append(f"{groups} topics among the test items, the gate needs {config.min_groups} (release.min_groups)")
    return few


def _words(c: Comparison, opponent: str, confidence: float) -> str:
    verdict = "above" if c.passed else "not above"
    return (
        f"{c.metric} ({c.role}) {c.candidate:.3f} against {c.opponent:.3f} of {opponent}: difference "
        f"{c.difference:+.3f}, {confidence:.0%} interval {c.low:+.3f} to {c.high:+.3f}; the lower bound is "
        f"{verdict} {c.bound:+g}"
    )
