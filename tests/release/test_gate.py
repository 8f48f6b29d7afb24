"""The gate promotes what is better, and hardly ever what is not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from llmops.config import Release
from llmops.errors import ArtifactError, ConfigError
from llmops.release.gate import Decision, Scores, decide
from llmops.release.ledger import ALPHA, Chance, next_chance

CONFIG: dict[str, Any] = {"guardrails": {}, "floors": {}, "min_effect": 0.0}
FIRST = next_chance([], ["a"])


def scores(values: Any, per_group: int = 1, **others: Any) -> Scores:
    values = list(values)
    ids = tuple(f"i{n:04}" for n in range(len(values)))
    groups = tuple(f"g{n // per_group}" for n in range(len(values)))
    return Scores(ids, groups, {"token_f1": values, **{name: list(v) for name, v in others.items()}})


def outcome(candidate: Scores, opponent: Scores, **changed: Any) -> str:
    return decide(candidate, opponent, Release(**{**CONFIG, **changed}), "v1", FIRST).outcome


def attempt(number: int) -> Chance:
    left = ALPHA / number
    level = ALPHA / number / (number + 1)
    return Chance(number, level, left, left - level)


@pytest.mark.parametrize("per_group", [1, 4, 12])
def test_of_two_equal_systems_hardly_any_is_promoted(per_group: int) -> None:
    """Nominal rate 2.5 %, from 120 topics to 10; the wordings of a topic rise and fall together."""
    rng, trials, promoted = np.random.default_rng(1), 300, 0
    for _ in range(trials):
        shared = np.repeat(rng.normal(0, 0.2, 120 // per_group), per_group)
        a, b = (np.clip(0.5 + side * shared / 2 + rng.normal(0, 0.05, 120), 0, 1) for side in (1, -1))
        promoted += outcome(scores(a, per_group), scores(b, per_group)) == "promoted"
    assert promoted / trials <= 0.052  # 2.5 % and three standard errors


def test_a_clearly_better_system_is_promoted() -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(0, 0.6, 80)
    wins = sum(outcome(scores(base + rng.normal(0.1, 0.2, 80)), scores(base)) == "promoted" for _ in range(50))
    assert wins >= 45


def test_the_same_answers_are_no_improvement() -> None:
    decision = decide(scores([0.5] * 40), scores([0.5] * 40), Release(**CONFIG), "v1", FIRST)
    assert decision.outcome == "rejected"
    assert decision.comparisons[0].low == decision.comparisons[0].high == 0


def test_better_by_less_than_the_minimum_effect_is_rejected() -> None:
    assert outcome(scores([0.505] * 40), scores([0.5] * 40), min_effect=0.01) == "rejected"
    assert outcome(scores([0.52] * 40), scores([0.5] * 40), min_effect=0.01) == "promoted"


def test_a_worse_guardrail_rejects_and_one_within_its_margin_does_not() -> None:
    better, base = [0.7] * 40, [0.5] * 40
    opponent = scores(base, rouge_l=[0.5] * 40)
    margin = {"guardrails": {"rouge_l": 0.02}}
    assert outcome(scores(better, rouge_l=[0.45] * 40), opponent, **margin) == "rejected"
    assert outcome(scores(better, rouge_l=[0.49] * 40), opponent, **margin) == "promoted"
    noisy = [0.0, 1.0] * 20  # no worse on average, but nobody can be sure of that
    assert outcome(scores(better, rouge_l=noisy), opponent, **margin) == "rejected"


def test_a_floor_that_is_not_reached_rejects() -> None:
    decision = decide(
        scores([0.08] * 40), scores([0.01] * 40), Release(**CONFIG | {"floors": {"token_f1": 0.1}}), "base", FIRST
    )
    assert decision.outcome == "rejected"
    assert not decision.floors[0].passed
    assert outcome(scores([0.1] * 40), scores([0.01] * 40), floors={"token_f1": 0.1}) == "promoted"


@pytest.mark.parametrize("count", [0, 1, 29])
def test_too_few_items_are_inconclusive(count: int) -> None:
    assert outcome(scores([1.0] * count), scores([0.0] * count)) == "inconclusive"


def test_too_few_topics_are_inconclusive() -> None:
    assert outcome(scores([1.0] * 60, per_group=20), scores([0.0] * 60, per_group=20)) == "inconclusive"


def test_the_order_of_items_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    a, b = scores(rng.uniform(0.2, 1, 60)), scores(rng.uniform(0, 0.8, 60))
    order = rng.permutation(60)
    mixed = Scores(
        tuple(b.ids[i] for i in order),
        tuple(b.groups[i] for i in order),
        {"token_f1": [b.values["token_f1"][i] for i in order]},
    )
    assert decide(a, b, Release(**CONFIG), "v1", FIRST) == decide(a, mixed, Release(**CONFIG), "v1", FIRST)


def test_the_reasons_hold_the_numbers() -> None:
    decision = decide(scores([0.7] * 40), scores([0.5] * 40), Release(**CONFIG), "v1", FIRST)
    assert "0.700" in decision.reasons[0]
    assert "+0.200" in decision.reasons[0]
    assert "v1" in decision.reasons[0]


def test_other_items_are_an_error() -> None:
    with pytest.raises(ArtifactError, match="same items"):
        outcome(scores([0.5] * 40), scores([0.5] * 41))


def test_an_item_twice_is_an_error() -> None:
    twice = Scores(("a", "a"), ("g", "g"), {"token_f1": [1.0, 1.0]})
    with pytest.raises(ArtifactError, match="two answers"):
        outcome(twice, twice)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(ArtifactError, match="i0007"):
        outcome(scores([0.5] * 40), scores([0.5] * 7 + [value] + [0.5] * 32))


def test_an_unknown_metric_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="token_f1"):
        outcome(scores([0.5] * 40), scores([0.5] * 40), guardrails={"perplexity": 1.0})


LESS: dict[str, Any] = {"primary": "hamming_loss"}


def losses(values: Any) -> Scores:
    return Scores(*(scores(values).ids, scores(values).groups), {"hamming_loss": list(values)})


def test_of_a_metric_of_which_less_is_better_more_is_worse() -> None:
    assert outcome(losses([0.50] * 40), losses([0.21] * 40), **LESS) == "rejected"
    assert outcome(losses([0.21] * 40), losses([0.50] * 40), **LESS) == "promoted"
    assert outcome(losses([0.21] * 40), losses([0.215] * 40), **LESS, min_effect=0.01) == "rejected"


def test_its_decision_says_so_and_its_numbers_are_as_they_were_measured() -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(0.3, 0.6, 60)
    decision = decide(
        losses(base - rng.uniform(0.0, 0.2, 60)),
        losses(base),
        Release(**CONFIG | LESS | {"min_effect": 0.01}),
        "v1",
        FIRST,
    )
    (found,) = decision.comparisons
    assert found.low < found.difference < found.high < found.bound == -0.01 and found.passed
    assert "lower is better" in decision.reasons[0] and "upper bound is below -0.01" in decision.reasons[0]
    assert decision.power is not None and decision.power < -0.01


def test_a_guardrail_and_a_floor_of_such_a_metric_are_turned_too() -> None:
    better, base = [0.7] * 40, [0.5] * 40
    opponent = scores(base, hamming_loss=[0.2] * 40)
    guarded = {"guardrails": {"hamming_loss": 0.02}}
    assert outcome(scores(better, hamming_loss=[0.3] * 40), opponent, **guarded) == "rejected"
    assert outcome(scores(better, hamming_loss=[0.21] * 40), opponent, **guarded) == "promoted"
    assert outcome(scores(better, hamming_loss=[0.0] * 40), opponent, **guarded) == "promoted"
    ceiling = {"floors": {"hamming_loss": 0.25}}
    assert outcome(scores(better, hamming_loss=[0.25] * 40), opponent, **ceiling) == "promoted"
    config = Release(**CONFIG | ceiling)
    broken = decide(scores(better, hamming_loss=[0.26] * 40), opponent, config, "v1", FIRST)
    assert broken.outcome == "rejected" and "0.260 is above the ceiling 0.25" in broken.reasons[0]


def test_a_late_attempt_needs_more_and_says_which_it_is() -> None:
    rng = np.random.default_rng(4)
    base = rng.uniform(0, 0.6, 60)
    better = base + rng.normal(0.07, 0.2, 60)
    first, late = (
        decide(scores(better, 2), scores(base, 2), Release(**CONFIG), "v1", attempt(number)) for number in (1, 7)
    )
    assert (first.outcome, late.outcome) == ("promoted", "rejected")
    assert (late.attempt, late.level, late.left) == (7, ALPHA / 56, attempt(7).left)
    assert f"attempt 7 on this frozen test (level 0.00089, left {late.left:.2g})" in late.reasons
    assert first.comparisons[0].low > late.comparisons[0].low and first.comparisons[0].high < late.comparisons[0].high
    assert "95% interval" in first.reasons[0] and "99.82% interval" in late.reasons[0]
    assert first.power and late.power and first.power < late.power


@pytest.mark.parametrize(("number", "reached"), [(6, True), (7, False)])
def test_a_level_that_few_topics_cannot_reach_is_inconclusive_and_spends_nothing(number: int, reached: bool) -> None:
    """Of 10 topics there are 1,024 cases, and the level of attempt 7 is below 1 in 1,024."""
    better, base = scores([0.7] * 40, 4), scores([0.5] * 40, 4)
    decision = decide(better, base, Release(**CONFIG), "v1", attempt(number))
    assert decision.outcome == ("promoted" if reached else "inconclusive")
    assert decision.attempt == (number if reached else 0)
    assert decision.left == pytest.approx(attempt(number).left if reached else attempt(number).before)
    if not reached:
        assert "10 topics" in decision.reasons[0] and "0.00098" in decision.reasons[0]
        assert "no attempt" in decision.reasons[1]


def test_a_comparison_that_is_void_decides_and_spends_nothing() -> None:
    decision = decide(
        scores([0.9] * 40), scores([0.5] * 40), Release(**CONFIG), "v1", attempt(3), void="it is v2 again"
    )
    assert (decision.outcome, decision.reasons[0], decision.attempt) == ("inconclusive", "it is v2 again", 0)
    assert decision.left == attempt(3).before


@pytest.mark.parametrize("per_group", [2, 6])
@pytest.mark.parametrize("number", [1, 4])
def test_the_difference_that_is_said_to_be_found_is_found(per_group: int, number: int) -> None:
    rng, trials = np.random.default_rng(5), 60

    def other(shift: float) -> Decision:
        shared = np.repeat(rng.normal(0, 0.1, 60 // per_group), per_group)
        values = 0.5 + shift + shared + rng.normal(0, 0.1, 60)
        return decide(
            scores(values, per_group), scores([0.5] * 60, per_group), Release(**CONFIG), "v1", attempt(number)
        )

    told = float(np.median([other(0.0).power or np.nan for _ in range(trials)]))
    assert 0.65 <= sum(other(told).outcome == "promoted" for _ in range(trials)) / trials <= 0.95


def test_a_decision_is_read_as_it_was_written() -> None:
    decision = decide(
        scores([0.7] * 40), scores([0.5] * 40), Release(**CONFIG | {"floors": {"token_f1": 0.1}}), "v1", FIRST
    )
    assert Decision.of(json.loads(json.dumps({**asdict(decision), "version": "v2"}))) == decision


def taught_anew(old: int, per_group: int, loss: float, sure: float = 0.02) -> tuple[Scores, Scores, frozenset[str]]:
    """10 topics that the candidate alone was taught and gains 0.8 in, and others in which it loses."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.6, 0.05, old * per_group)
    ours = np.concatenate([base - loss + rng.normal(0, sure, len(base)), np.full(10 * per_group, 0.9)])
    theirs = np.concatenate([base, np.full(10 * per_group, 0.1)])
    a, b = (scores(values, per_group, rouge_l=values) for values in (ours, theirs))
    return a, b, frozenset(f"g{old + n}" for n in range(10))


@pytest.mark.parametrize(("old", "per_group"), [(30, 2), (60, 1), (60, 5)])
def test_what_was_taught_anew_makes_up_for_no_loss_elsewhere(old: int, per_group: int) -> None:
    candidate, opponent, alone = taught_anew(old, per_group, 0.03)
    decision = decide(candidate, opponent, Release(), "v1", FIRST, alone=alone)
    everywhere, elsewhere = (c for c in decision.comparisons if c.metric == "rouge_l")
    assert (everywhere.passed, everywhere.old_topics) == (True, 0)
    assert (elsewhere.passed, elsewhere.old_topics, elsewhere.role) == (False, old, "guardrail")
    assert elsewhere.difference == pytest.approx(-0.03, abs=0.01) and elsewhere.high < -0.02
    assert (decision.outcome, decision.attempt) == ("rejected", 1)
    assert f"on the {old} topics" in decision.reasons[0] and "not above -0.02" in decision.reasons[0]
    assert decide(candidate, opponent, Release(), "v1", FIRST).outcome == "promoted"  # as far as can be told
    assert Decision.of(json.loads(json.dumps(asdict(decision)))) == decision


def test_as_good_elsewhere_is_good_enough_and_the_figure_is_told() -> None:
    candidate, opponent, alone = taught_anew(30, 2, 0.005)
    decision = decide(candidate, opponent, Release(), "v1", FIRST, alone=alone)
    assert decision.outcome == "promoted" and "on the 30 topics" in decision.reasons[2]
    alike = decide(candidate, opponent, Release(), "v1", FIRST)
    assert decision.comparisons[:2] == alike.comparisons and decision.power == alike.power


@pytest.mark.parametrize("old", [0, 1, 3])
def test_of_few_other_topics_it_is_as_sure_as_these_can_be(old: int) -> None:
    worse, even = (taught_anew(old, 4, loss, 0) for loss in (0.03, 0.0))
    assert decide(*worse[:2], Release(), "v1", FIRST, alone=worse[2]).outcome == ("rejected" if old else "promoted")
    assert decide(*even[:2], Release(), "v1", FIRST, alone=even[2]).outcome == "promoted"


def test_a_decision_of_an_earlier_release_is_read() -> None:
    candidate, opponent, _ = taught_anew(30, 2, 0.005)
    decision = decide(candidate, opponent, Release(), "v1", FIRST)
    document = json.loads(json.dumps(asdict(decision)))
    for comparison in document["comparisons"]:
        del comparison["old_topics"]
    assert Decision.of(document) == decision


def test_equal_systems_are_promoted_no_oftener_for_topics_that_one_alone_was_taught() -> None:
    rng, outcomes = np.random.default_rng(7), set[tuple[bool, bool]]()
    for _ in range(200):
        a, b = (rng.normal(0.5, 0.1, 80) for _ in range(2))
        ours, theirs = (scores(v, 2, rouge_l=v) for v in (a, b))
        one, other = (
            decide(ours, theirs, Release(min_effect=0), "v1", FIRST, alone=alone).outcome == "promoted"
            for alone in (frozenset(f"g{n}" for n in range(10)), frozenset[str]())
        )
        outcomes.add((one, other))
    assert (True, False) not in outcomes
