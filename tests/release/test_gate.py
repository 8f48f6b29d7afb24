"""The gate promotes what is better, and hardly ever what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmops.config import Release
from llmops.errors import ArtifactError, ConfigError
from llmops.release.gate import Scores, decide

CONFIG: dict[str, Any] = {"guardrails": {}, "floors": {}, "min_effect": 0.0, "bootstrap": 1000}


def scores(values: Any, per_group: int = 1, **others: Any) -> Scores:
    values = list(values)
    ids = tuple(f"i{n:04}" for n in range(len(values)))
    groups = tuple(f"g{n // per_group}" for n in range(len(values)))
    return Scores(ids, groups, {"token_f1": values, **{name: list(v) for name, v in others.items()}})


def outcome(candidate: Scores, opponent: Scores, **changed: Any) -> str:
    return decide(candidate, opponent, Release(**{**CONFIG, **changed}), "v1").outcome


@pytest.mark.parametrize("per_group", [1, 4])
def test_of_two_equal_systems_hardly_any_is_promoted(per_group: int) -> None:
    """Nominal rate 2.5 %; the wordings of a topic rise and fall together, which the resampling must respect."""
    rng, trials, promoted = np.random.default_rng(1), 300, 0
    for _ in range(trials):
        shared = np.repeat(rng.normal(0, 0.2, 120 // per_group), per_group)
        a, b = (np.clip(0.5 + side * shared / 2 + rng.normal(0, 0.05, 120), 0, 1) for side in (1, -1))
        promoted += outcome(scores(a, per_group), scores(b, per_group)) == "promoted"
    assert promoted / trials <= 0.06  # 2.5 % and three standard errors


def test_a_clearly_better_system_is_promoted() -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(0, 0.6, 80)
    wins = sum(outcome(scores(base + rng.normal(0.1, 0.2, 80)), scores(base)) == "promoted" for _ in range(50))
    assert wins >= 45


def test_the_same_answers_are_no_improvement() -> None:
    decision = decide(scores([0.5] * 40), scores([0.5] * 40), Release(**CONFIG), "v1")
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
        scores([0.08] * 40), scores([0.01] * 40), Release(**CONFIG | {"floors": {"token_f1": 0.1}}), "base"
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
    assert decide(a, b, Release(**CONFIG), "v1") == decide(a, mixed, Release(**CONFIG), "v1")


def test_the_reasons_hold_the_numbers() -> None:
    decision = decide(scores([0.7] * 40), scores([0.5] * 40), Release(**CONFIG), "v1")
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
