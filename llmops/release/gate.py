"""The gate: is the candidate better than its opponent, on the same items, beyond chance?

The test is a sign-flip test by topic on the differences of the same items (see `statistics.sign_flip`), at the level
that the frozen test has left for this attempt (see `ledger`). The candidate is promoted if

1. the primary metric is better by more than `min_effect`: that bound of the difference's interval lies beyond it,
2. no guardrail is inferior: its bound is above minus the margin (non-inferiority),
3. no floor is broken: the candidate's own mean reaches it.

For a metric where less is better, all of this is the other way round. A champion that was trained on erased rows is
replaced by a candidate that is not inferior: the margin of the primary metric and the guardrails is `erased_margin`,
and no attempt is spent. The decision is inconclusive, and no attempt is spent, with fewer items or topics than
configured, a level that so few topics cannot reach, a candidate that differs from an earlier one only by a seed, or
from its opponent only by feedback on too few topics (see `judgement`). Everything else is rejected. Pure functions, no
files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from llmops.config import Release
from llmops.config.model import LOWER_IS_BETTER
from llmops.frame.errors import ArtifactError, ConfigError
from llmops.frame.statistics.bootstrap import Floats
from llmops.frame.statistics.sign_flip import (
    compute_bounds,
    compute_detectable_effect,
    compute_smallest_level,
    sum_by_topic,
)
from llmops.release.ledger import Chance, compute_next_chance

GateOutcome = Literal["promoted", "rejected", "inconclusive"]
POWER = 0.8  #: the statistical power of the difference that a decision names


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one model on the test items."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]  #: topic of each item
    values: Mapping[str, Sequence[float]]  #: metric → one value per item


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of candidate and opponent."""

    metric: str
    role: Literal["primary", "guardrail"]
    lower_is_better: bool
    candidate: float  #: mean over the items
    opponent: float  #: mean over the items
    difference: float  #: candidate minus opponent
    low: float  #: bounds of the interval of the difference
    high: float
    bound: float  #: `low` must be above this; if lower is better, `high` must be below it
    passed: bool


@dataclass(frozen=True, slots=True)
class Floor:
    """An absolute value that the candidate must reach; if lower is better, one that it must not exceed."""

    metric: str
    lower_is_better: bool
    value: float
    floor: float
    passed: bool


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate's decision with its numbers."""

    outcome: GateOutcome
    opponent: str  #: "base" or a version
    reasons: tuple[str, ...]
    items: int
    groups: int
    attempt: int  #: number of the attempt on this frozen test; 0: none was spent
    level: float  #: one-sided, of each bound
    left: float  #: of the test's budget
    power: float | None  #: the difference of the primary metric that the test finds with the power `POWER`
    comparisons: tuple[MetricComparison, ...]
    floors: tuple[Floor, ...]
    index: str = ""  #: artifact of the documents that the answers rest on; empty: none

    def as_json(self) -> dict[str, Any]:
        """Return the content of a `decision.json`, which names an index only if there was one."""
        return {name: value for name, value in asdict(self).items() if name != "index" or value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> GateDecision:
        """Return the decision that a `decision.json` holds."""
        values = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        values |= {"reasons": tuple(values["reasons"]), "floors": tuple(Floor(**f) for f in values["floors"])}
        return cls(**{**values, "comparisons": tuple(MetricComparison(**c) for c in values["comparisons"])})


def decide(
    candidate: Scores, opponent: Scores, config: Release, opponent_name: str, chance: Chance, why_void: str = "",
    why_lenient: str = "",
) -> GateDecision:  # fmt: skip
    """Compare the candidate with its opponent ("base" or the champion's version) on the same items, in any order.

    `why_void` is the reason for which the comparison decides nothing. `why_lenient` is the reason for which a candidate
    needs to be no worse instead of better.

    Raises:
        ArtifactError: if the items differ, an item is there twice, or a value is no finite number.
        ConfigError: if a metric that the configuration names was not measured.
    """
    wanted = dict.fromkeys([config.primary, *config.guardrails, *config.floors])
    ours, theirs = _tabulate(candidate, wanted, "candidate"), _tabulate(opponent, wanted, opponent_name)
    if ours.keys() != theirs.keys():
        others = sorted(ours.keys() ^ theirs.keys())
        raise ArtifactError(
            f"candidate and {opponent_name} did not answer the same items ({len(others)} differ, e.g. {others[0]}); "
            "run `llmops run evaluate` again."
        )
    ids = sorted(ours)
    topic = dict(zip(candidate.ids, candidate.groups, strict=True))
    topics = [topic[i] for i in ids]
    a, b = (np.array([table[i] for i in ids]).reshape(len(ids), len(wanted)) for table in (ours, theirs))
    means = {metric: (float(a[:, n].mean()), float(b[:, n].mean())) for n, metric in enumerate(wanted) if ids}

    groups = len(set(topics))
    voids = _explain_too_few(len(ids), groups, config) + _explain_out_of_reach(groups, chance)
    voids += [why_void] if why_void else []
    level = max(chance.level, compute_smallest_level(groups))
    margins = [(config.primary, -config.min_effect), *config.guardrails.items()]
    if why_lenient:
        margins = [(metric, max(margin, config.erased_margin)) for metric, margin in margins]
    comparisons, power = _compare(a - b, topics, means, margins, level) if ids else ((), None)
    floors = [_check_floor(metric, means[metric][0], floor) for metric, floor in config.floors.items() if ids]
    failed = [describe_comparison(c, opponent_name, level) for c in comparisons if not c.passed]
    failed += [_describe_floor(f) for f in floors if not f.passed]
    outcome: GateOutcome = "inconclusive" if voids else "rejected" if failed else "promoted"
    reasons = voids or failed or [describe_comparison(c, opponent_name, level) for c in comparisons]
    if why_lenient:
        reasons.append(f"{why_lenient}: it is enough to be no worse")
    if spent := not (voids or why_lenient):
        attempt = f"attempt {chance.number} on this frozen test (level {chance.level:.2g}, left {chance.left:.2g})"
    else:
        attempt = f"no attempt on this frozen test was spent (left {chance.budget:.2g})"
    reasons.append(attempt)
    if power is not None:
        reasons.append(
            f"with these {len(ids)} items of {groups} topics a difference of {power:+.3f} in {config.primary} would "
            f"have been found with a chance of {POWER:.0%} at this level"
        )
    return GateDecision(
        outcome=outcome,
        opponent=opponent_name,
        reasons=tuple(reasons),
        items=len(ids),
        groups=groups,
        attempt=chance.number if spent else 0,
        level=level,
        left=chance.left if spent else chance.budget,
        power=power,
        comparisons=comparisons,
        floors=tuple(floors),
    )


def judge_documents(now: Scores, before: Scores, config: Release, before_name: str) -> GateDecision:
    """Compare a model's answers from new documents with those from earlier ones, on the items that both have.

    No attempt is spent: "promoted" means that the new answers are not worse.
    """
    shared = set(now.ids) & set(before.ids)
    ours, theirs = _select_items(now, shared), _select_items(before, shared)
    rules = config.model_copy(update={"floors": {}})
    return decide(ours, theirs, rules, before_name, compute_next_chance((), ()), why_lenient="the documents are others")


def _select_items(scores: Scores, ids: Set[str]) -> Scores:
    rows = [n for n, item in enumerate(scores.ids) if item in ids]
    values = {metric: [column[n] for n in rows] for metric, column in scores.values.items()}
    return Scores(tuple(scores.ids[n] for n in rows), tuple(scores.groups[n] for n in rows), values)


def _compare(
    differences: Floats,
    topics: Sequence[str],
    means: Mapping[str, tuple[float, float]],
    margins: Sequence[tuple[str, float]],
    level: float,
) -> tuple[tuple[MetricComparison, ...], float | None]:
    """Compare the primary metric and the guardrails; return also the difference of the primary one that is found.

    `differences` are candidate minus opponent, a row per item, a column per metric of `means`. `margins` begin with the
    primary metric: how much worse a metric may be, or below 0 how much better it must be. `level` is one-sided.
    """
    signs = np.array([-1.0 if metric in LOWER_IS_BETTER else 1.0 for metric, _ in margins])
    columns = [list(means).index(metric) for metric, _ in margins]
    sums, sizes = sum_by_topic(differences[:, columns] * signs, topics)  # more is better of all of these
    low, high = compute_bounds(sums, sizes, level)
    comparisons = []
    for n, (metric, margin) in enumerate(margins):
        mine, other = means[metric]
        ends = sorted((float(signs[n] * low[n]) + 0.0, float(signs[n] * high[n]) + 0.0))  # + 0.0: no minus zero
        comparisons.append(
            MetricComparison(
                metric=metric,
                role="guardrail" if n else "primary",
                lower_is_better=metric in LOWER_IS_BETTER,
                candidate=mine,
                opponent=other,
                difference=mine - other,
                low=ends[0],
                high=ends[1],
                bound=float(signs[n] * -margin) + 0.0,
                passed=bool(low[n] > -margin),
            )
        )
    if len(sizes) < 2:
        return tuple(comparisons), None
    power = -margins[0][1] + compute_detectable_effect(sums, sizes, low, POWER)[0]
    return tuple(comparisons), float(signs[0] * power)


def _tabulate(scores: Scores, metrics: Mapping[str, None], name: str) -> dict[str, list[float]]:
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


def _explain_too_few(items: int, groups: int, config: Release) -> list[str]:
    few = []
    if items < config.min_items:
        few.append(f"{items} test items, the gate needs {config.min_items} (release.min_items)")
    if groups < config.min_groups:
        few.append(f"{groups} topics among the test items, the gate needs {config.min_groups} (release.min_groups)")
    return few


def _explain_out_of_reach(groups: int, chance: Chance) -> list[str]:
    if chance.level >= compute_smallest_level(groups):
        return []
    return [
        f"attempt {chance.number} on this frozen test has the level {chance.level:.2g}, and the smallest that can be "
        f"reached with {groups} topics is {compute_smallest_level(groups):.2g}: the test has been used too often; new "
        "test items of more topics refill its budget"
    ]


def _check_floor(metric: str, value: float, floor: float) -> Floor:
    lower = metric in LOWER_IS_BETTER
    return Floor(metric, lower, value, floor, value <= floor if lower else value >= floor)


def _describe_floor(f: Floor) -> str:
    beyond = "above the ceiling" if f.lower_is_better else "below the floor"
    return f"{f.metric} {f.value:.3f} is {beyond} {f.floor:g}"


def describe_comparison(c: MetricComparison, opponent: str, level: float) -> str:
    """Return a comparison in words. `level` is the one-sided level of its bounds."""
    role = f"{c.role}, lower is better" if c.lower_is_better else c.role
    end, beyond = ("upper", "below") if c.lower_is_better else ("lower", "above")
    return (
        f"{c.metric} ({role}) {c.candidate:.3f} against {c.opponent:.3f} of {opponent}: difference "
        f"{c.difference:+.3f}, {_format_confidence(level)} interval {c.low:+.3f} to {c.high:+.3f}; the {end} bound is "
        f"{'' if c.passed else 'not '}{beyond} {c.bound:+g}"
    )


def _format_confidence(level: float) -> str:
    """Return the confidence of an interval whose bounds have this level, with enough digits to differ from 100 %."""
    return f"{100 * (1 - 2 * level):.{max(0, math.ceil(-math.log10(level)) - 2)}f}%"
