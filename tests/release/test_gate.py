"""The gate promotes what is better, and hardly ever what is not."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from llmops.config import Release
from llmops.frame.errors import ArtifactError, ConfigError
from llmops.release.gate import GateDecision, Scores, decide
from llmops.release.ledger import ALPHA, Chance, compute_next_chance

CONFIG: dict[str, Any] = {"guardrails": {}, "floors": {}, "min_effect": 0.0}
FIRST = compute_next_chance([], ["a"])


def scores(values: Any, per_group: int = 1, **others: Any) -> Scores:
    values = list(values)
    ids = tuple(f"i{n:04}" for n in range(len(values)))
    groups = tuple(f"g{n // per_group}" for n in range(len(values)))
    return Scores(ids, groups, {"token_f1": values, **{name: list(v) for name, v in others.items()}})


def judged(candidate: Scores, opponent: Scores, chance: Chance = FIRST, void: str = "", **changed: Any) -> GateDecision:
    return decide(candidate, opponent, Release(**{**CONFIG, **changed}), "v1", chance, why_void=void)


def outcome(candidate: Scores, opponent: Scores, **changed: Any) -> str:
    return judged(candidate, opponent, **changed).outcome


def attempt(number: int) -> Chance:
    left, level = ALPHA / number, ALPHA / number / (number + 1)
    return Chance(number, level, left, left - level)


@pytest.mark.parametrize("per_group", [1, 12])
def test_of_two_equal_systems_hardly_any_is_promoted(per_group: int) -> None:
    """Nominal rate 2.5 %, from 120 topics to 10; the wordings of a topic rise and fall together."""
    rng, trials, promoted = np.random.default_rng(1), 150, 0
    for _ in range(trials):
        shared = np.repeat(rng.normal(0, 0.2, 120 // per_group), per_group)
        a, b = (np.clip(0.5 + side * shared / 2 + rng.normal(0, 0.05, 120), 0, 1) for side in (1, -1))
        promoted += outcome(scores(a, per_group), scores(b, per_group)) == "promoted"
    assert promoted / trials <= 0.063  # 2.5 % and three standard errors


def test_better_by_less_than_the_minimum_effect_is_rejected_and_the_reason_holds_the_numbers() -> None:
    base = scores([0.5] * 40)
    same = judged(base, base)
    assert same.outcome == "rejected" and same.comparisons[0].low == same.comparisons[0].high == 0
    assert outcome(scores([0.505] * 40), base, min_effect=0.01) == "rejected"
    better = judged(scores([0.7] * 40), base, min_effect=0.01)
    assert better.outcome == "promoted" and all(n in better.reasons[0] for n in ("0.700", "+0.200", "v1"))
    assert GateDecision.from_json(json.loads(json.dumps({**asdict(better), "version": "v2"}))) == better
    void = judged(scores([0.9] * 40), base, attempt(3), void="it is v2 again")
    assert (void.outcome, void.reasons[0], void.attempt) == ("inconclusive", "it is v2 again", 0)
    assert void.left == attempt(3).budget


def test_a_worse_guardrail_rejects_and_one_within_its_margin_does_not() -> None:
    better, base = [0.7] * 40, [0.5] * 40
    opponent = scores(base, rouge_l=[0.5] * 40)
    margin = {"guardrails": {"rouge_l": 0.02}}
    assert outcome(scores(better, rouge_l=[0.45] * 40), opponent, **margin) == "rejected"
    assert outcome(scores(better, rouge_l=[0.49] * 40), opponent, **margin) == "promoted"
    noisy = [0.0, 1.0] * 20  # no worse on average, but nobody can be sure of that
    assert outcome(scores(better, rouge_l=noisy), opponent, **margin) == "rejected"


def test_a_floor_that_is_not_reached_rejects() -> None:
    for value, found in ((0.08, "rejected"), (0.1, "promoted")):
        assert outcome(scores([value] * 40), scores([0.01] * 40), floors={"token_f1": 0.1}) == found


@pytest.mark.parametrize(("count", "per_group"), [(0, 1), (29, 1), (60, 20)])
def test_too_few_items_or_topics_are_inconclusive(count: int, per_group: int) -> None:
    assert outcome(scores([1.0] * count, per_group), scores([0.0] * count, per_group)) == "inconclusive"


def test_the_order_of_items_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    a, b = scores(rng.uniform(0.2, 1, 60)), scores(rng.uniform(0, 0.8, 60))
    order = rng.permutation(60)
    ids, groups = (tuple(names[i] for i in order) for names in (b.ids, b.groups))
    assert judged(a, b) == judged(a, Scores(ids, groups, {"token_f1": [b.values["token_f1"][i] for i in order]}))


def test_scores_that_cannot_be_compared_are_an_error() -> None:
    base = scores([0.5] * 40)
    with pytest.raises(ArtifactError, match="same items"):
        outcome(base, scores([0.5] * 41))
    twice = Scores(("a", "a"), ("g", "g"), {"token_f1": [1.0, 1.0]})
    with pytest.raises(ArtifactError, match="two answers"):
        outcome(twice, twice)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ArtifactError, match="i0007"):
            outcome(base, scores([0.5] * 7 + [value] + [0.5] * 32))
    with pytest.raises(ConfigError, match="token_f1"):
        outcome(base, base, guardrails={"perplexity": 1.0})


def test_of_a_metric_of_which_less_is_better_more_is_worse_as_primary_guardrail_and_floor() -> None:
    def judge(candidate: float, opponent: float, **rules: Any) -> str:
        better, base = (
            scores([0.7] * 40, hamming_loss=[candidate] * 40),
            scores([0.5] * 40, hamming_loss=[opponent] * 40),
        )
        return outcome(better, base, **rules)

    primary = {"primary": "hamming_loss", "min_effect": 0.01}
    assert [judge(loss, 0.21, **primary) for loss in (0.5, 0.205, 0.19)] == ["rejected", "rejected", "promoted"]
    guarded = {"guardrails": {"hamming_loss": 0.02}}
    assert [judge(loss, 0.2, **guarded) for loss in (0.3, 0.21, 0.0)] == ["rejected", "promoted", "promoted"]
    ceiling = {"floors": {"hamming_loss": 0.25}}
    assert [judge(loss, 0.2, **ceiling) for loss in (0.26, 0.25)] == ["rejected", "promoted"]


def test_a_late_attempt_needs_more_and_says_which_it_is() -> None:
    rng = np.random.default_rng(4)
    base = rng.uniform(0, 0.6, 60)
    better = base + rng.normal(0.07, 0.2, 60)
    first, late = (judged(scores(better, 2), scores(base, 2), attempt(number)) for number in (1, 7))
    assert (first.outcome, late.outcome) == ("promoted", "rejected")
    assert (late.attempt, late.level, late.left) == (7, ALPHA / 56, attempt(7).left)
    assert first.comparisons[0].low > late.comparisons[0].low and first.comparisons[0].high < late.comparisons[0].high
    assert first.power and late.power and first.power < late.power


@pytest.mark.parametrize(("number", "reached"), [(6, True), (7, False)])
def test_a_level_that_few_topics_cannot_reach_is_inconclusive_and_spends_nothing(number: int, reached: bool) -> None:
    """Of 10 topics there are 1,024 cases, and the level of attempt 7 is below 1 in 1,024."""
    better, base = scores([0.7] * 40, 4), scores([0.5] * 40, 4)
    decision = judged(better, base, attempt(number))
    assert decision.outcome == ("promoted" if reached else "inconclusive")
    assert decision.attempt == (number if reached else 0)
    assert decision.left == pytest.approx(attempt(number).left if reached else attempt(number).budget)


@pytest.mark.parametrize(("per_group", "number"), [(2, 1), (6, 4)])
def test_the_difference_that_is_said_to_be_found_is_found(per_group: int, number: int) -> None:
    rng, trials, base = np.random.default_rng(5), 60, scores([0.5] * 60, per_group)

    def other(shift: float) -> GateDecision:
        shared = np.repeat(rng.normal(0, 0.1, 60 // per_group), per_group)
        values = 0.5 + shift + shared + rng.normal(0, 0.1, 60)
        return judged(scores(values, per_group), base, attempt(number))

    told = float(np.median([other(0.0).power or np.nan for _ in range(trials)]))
    assert 0.65 <= sum(other(told).outcome == "promoted" for _ in range(trials)) / trials <= 0.95
