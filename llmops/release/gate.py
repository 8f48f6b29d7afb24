"""The gate: is the candidate better than its opponent, on the same items, beyond chance?

By a sign-flip test by topic on the differences of the same items (see `statistics.sign_flip`), at the level that the
frozen test has left for this attempt (see `ledger`). The candidate is promoted if

1. the primary metric is better by more than `min_effect`: that bound of the difference's interval lies beyond it,
2. no guardrail is inferior: its bound is above minus the margin (non-inferiority), on all topics, and on those besides
   the ones that the candidate alone was taught: what it gains there makes up for no loss elsewhere,
3. no floor is broken: the candidate's own mean reaches it.

All of this has to hold, so that each part of it at the level of the attempt keeps the chance of a wrong promotion below
that level: a part more can only reject (an intersection-union test, Berger 1982).

Of a metric of which less is better all of this is the other way round. Inconclusive, and no attempt spent: fewer items
or topics than asked for, a level that so few topics cannot reach, a candidate that differs from an earlier one only by
a seed, or from its opponent only in what users have said of too few topics (see `judgement`). Everything else:
rejected. Pure functions, no files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmops.config import Release
from llmops.config.model import LOWER_IS_BETTER
from llmops.errors import ArtifactError, ConfigError
from llmops.release.ledger import Chance
from llmops.statistics.intervals import Floats
from llmops.statistics.sign_flip import bounds, by_topic, detectable, smallest_level

Outcome = Literal["promoted", "rejected", "inconclusive"]
Role = Literal["primary", "guardrail"]
Measured = Mapping[str, tuple[Floats, Floats]]  #: metric → of candidate and opponent, a value per item
POWER = 0.8  #: the chance with which a difference is said to be found


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
    role: Role
    lower_is_better: bool
    candidate: float  #: mean over the items
    opponent: float  #: mean over the items
    difference: float  #: candidate minus opponent
    low: float  #: bounds of the interval of the difference
    high: float
    bound: float  #: `low` must be above this; if lower is better, `high` must be below it
    passed: bool
    old_topics: int = 0  #: so many are compared, without those that the candidate alone was taught; 0: it is all topics


@dataclass(frozen=True, slots=True)
class Floor:
    """An absolute value that the candidate must reach; one that it must not exceed if lower is better."""

    metric: str
    lower_is_better: bool
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
    attempt: int  #: number of the attempt on this frozen test; 0: none was spent
    level: float  #: one-sided, of each bound
    left: float  #: of the test's budget
    power: float | None  #: the difference of the primary metric that would have been found with the chance `POWER`
    comparisons: tuple[Comparison, ...]
    floors: tuple[Floor, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Decision:
        """The decision that a `decision.json` holds."""
        values = {name: document[name] for name in cls.__dataclass_fields__}
        values |= {"reasons": tuple(values["reasons"]), "floors": tuple(Floor(**f) for f in values["floors"])}
        return cls(**{**values, "comparisons": tuple(Comparison(**c) for c in values["comparisons"])})


def decide(
    candidate: Scores,
    opponent: Scores,
    config: Release,
    opponent_name: str,
    chance: Chance,
    void: str = "",
    alone: Collection[str] = (),
) -> Decision:
    """Compare the candidate with its opponent.

    Args:
        candidate, opponent: scores on the same items; their order does not matter.
        config: metrics, margins and floors.
        opponent_name: "base" or the champion's version, for the reasons.
        chance: what the frozen test has left for this attempt.
        void: why this comparison is to decide nothing, if so.
        alone: topics that the candidate was taught and its opponent was not.

    Raises:
        ArtifactError: if the items differ, are double, or a value is no finite number.
        ConfigError: if a metric that the configuration names was not measured.
    """
    wanted = dict.fromkeys([config.primary, *config.guardrails, *config.floors])
    mine, other = _table(candidate, wanted, "candidate"), _table(opponent, wanted, opponent_name)
    if mine.keys() != other.keys():
        odd = sorted(mine.keys() ^ other.keys())
        raise ArtifactError(
            f"candidate and {opponent_name} did not answer the same items ({len(odd)} differ, e.g. {odd[0]}); "
            "run `llmops run evaluate` again."
        )
    ids = sorted(mine)
    topic = dict(zip(candidate.ids, candidate.groups, strict=True))
    topics = [topic[i] for i in ids]
    a, b = (np.array([table[i] for i in ids]).reshape(len(ids), len(wanted)) for table in (mine, other))

    groups = len(set(topics))
    none_spent = _too_few(len(ids), groups, config) + _out_of_reach(groups, chance) + ([void] if void else [])
    level, measured = max(chance.level, smallest_level(groups)), {m: (a[:, n], b[:, n]) for n, m in enumerate(wanted)}
    comparisons, power = _compare(measured, topics, config, level) if ids else ([], None)
    old = np.array([of not in alone for of in topics], dtype=bool)
    if config.guardrails and old.any() and not old.all():
        rest = {metric: (ours[old], theirs[old]) for metric, (ours, theirs) in measured.items()}
        comparisons += _guard(rest, [of for of in topics if of not in alone], config, level)
    floors = [_floor(m, float(measured[m][0].mean()), floor) for m, floor in config.floors.items() if ids]
    failed = [_words(c, opponent_name, level) for c in comparisons if not c.passed]
    failed += [_floor_words(f) for f in floors if not f.passed]
    outcome: Outcome = "inconclusive" if none_spent else "rejected" if failed else "promoted"
    reasons = none_spent or failed or [_words(c, opponent_name, level) for c in comparisons]
    if none_spent:
        reasons.append(f"no attempt on this frozen test was spent (left {chance.before:.2g})")
    else:
        reasons.append(
            f"attempt {chance.number} on this frozen test (level {chance.level:.2g}, left {chance.left:.2g})"
        )
    if power is not None:
        reasons.append(
            f"with these {len(ids)} items of {groups} topics a difference of {power:+.3f} in {config.primary} would "
            f"have been found with a chance of {POWER:.0%} at this level"
        )
    return Decision(
        outcome=outcome,
        opponent=opponent_name,
        reasons=tuple(reasons),
        items=len(ids),
        groups=groups,
        attempt=0 if none_spent else chance.number,
        level=level,
        left=chance.before if none_spent else chance.left,
        power=power,
        comparisons=tuple(comparisons),
        floors=tuple(floors),
    )


def _compare(
    measured: Measured, topics: Sequence[str], config: Release, level: float
) -> tuple[list[Comparison], float | None]:
    """The primary metric and the guardrails, and which difference of the primary one would have been found."""
    margins = [(config.primary, -config.min_effect), *config.guardrails.items()]
    sums, sizes = _sums(measured, [metric for metric, _ in margins], topics)
    low, high = bounds(sums, sizes, level)
    comparisons = [
        _comparison(measured, "guardrail" if n else "primary", metric, margin, float(low[n]), float(high[n]))
        for n, (metric, margin) in enumerate(margins)
    ]
    if len(sizes) < 2:
        return comparisons, None
    power = config.min_effect + detectable(sums, sizes, low, POWER)[0]
    return comparisons, float(_sign(config.primary) * power)


def _guard(measured: Measured, topics: Sequence[str], config: Release, level: float) -> list[Comparison]:
    """The guardrails on some of the topics, as sure as so many can be."""
    sums, sizes = _sums(measured, list(config.guardrails), topics)
    low, high = bounds(sums, sizes, max(level, smallest_level(len(sizes))))
    return [
        _comparison(measured, "guardrail", metric, margin, float(low[n]), float(high[n]), len(sizes))
        for n, (metric, margin) in enumerate(config.guardrails.items())
    ]


def _sums(measured: Measured, metrics: Sequence[str], topics: Sequence[str]) -> tuple[Floats, Floats]:
    """Of the differences, as `by_topic` has them, so that more is better of all of them."""
    columns = [(measured[m][0] - measured[m][1]) * _sign(m) for m in metrics]
    return by_topic(np.array(columns).reshape(len(metrics), len(topics)).T, topics)


def _comparison(
    measured: Measured, role: Role, metric: str, margin: float, low: float, high: float, old_topics: int = 0
) -> Comparison:
    sign = _sign(metric)
    candidate, opponent = (float(values.mean()) for values in measured[metric])
    ends = sorted((sign * low + 0.0, sign * high + 0.0))  # + 0.0: no minus zero
    return Comparison(
        metric=metric,
        role=role,
        lower_is_better=metric in LOWER_IS_BETTER,
        candidate=candidate,
        opponent=opponent,
        difference=candidate - opponent,
        low=ends[0],
        high=ends[1],
        bound=sign * -margin + 0.0,
        passed=low > -margin,
        old_topics=old_topics,
    )


def _sign(metric: str) -> float:
    return -1.0 if metric in LOWER_IS_BETTER else 1.0


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


def _out_of_reach(groups: int, chance: Chance) -> list[str]:
    if chance.level >= smallest_level(groups):
        return []
    return [
        f"attempt {chance.number} on this frozen test has the level {chance.level:.2g}, and the smallest that can be "
        f"reached with {groups} topics is {smallest_level(groups):.2g}: the test has been asked too often; new "
        "test items of more topics refill its budget"
    ]


def _floor(metric: str, value: float, floor: float) -> Floor:
    lower = metric in LOWER_IS_BETTER
    return Floor(metric, lower, value, floor, value <= floor if lower else value >= floor)


def _floor_words(f: Floor) -> str:
    beyond = "above the ceiling" if f.lower_is_better else "below the floor"
    return f"{f.metric} {f.value:.3f} is {beyond} {f.floor:g}"


def _words(c: Comparison, opponent: str, level: float) -> str:
    role = f"{c.role}, lower is better" if c.lower_is_better else c.role
    if c.old_topics:
        role += f", on the {c.old_topics} topics besides those that the candidate alone was taught"
        level = max(level, smallest_level(c.old_topics))
    end, beyond = ("upper", "below") if c.lower_is_better else ("lower", "above")
    return (
        f"{c.metric} ({role}) {c.candidate:.3f} against {c.opponent:.3f} of {opponent}: difference "
        f"{c.difference:+.3f}, {_confidence(level)} interval {c.low:+.3f} to {c.high:+.3f}; the {end} bound is "
        f"{'' if c.passed else 'not '}{beyond} {c.bound:+g}"
    )


def _confidence(level: float) -> str:
    """The confidence of an interval of which each bound has this level, with as many digits as tell it from 100 %."""
    return f"{100 * (1 - 2 * level):.{max(0, math.ceil(-math.log10(level)) - 2)}f}%"
