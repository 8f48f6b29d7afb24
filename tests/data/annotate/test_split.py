"""Splits: no leak, the test only grows, as configured."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.config import Annotate
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Past, key
from llmops.data.annotate.split import Claim, keyed
from llmops.data.annotate.split import splits as splits_after

SPLITS = (TEST, VALIDATION, TRAIN)


def config(**more: object) -> Annotate:
    return Annotate(**{"min_test_items": 1, "test": 0.3, "validation": 0.2, **more})


def splits(claims: list[Claim], settings: Annotate) -> dict[Claim, str]:
    found = splits_after(keyed(claims, settings), settings, Past())
    return {claim: split for claim, split in zip(claims, found, strict=True) if split}


def by_wording(claims: list[Claim], settings: Annotate) -> dict[str, str]:
    """Wording → split; fails if a wording is in two."""
    sides: dict[str, str] = {}
    for claim, split in splits(claims, settings).items():
        assert sides.setdefault(claim.wording, split) == split
    return sides


# Few wordings, groups and sources, so that the same question meets in several.
parts = (st.sampled_from("abcdefghij"), st.sampled_from(["g1", "g2", "g3"]), st.sampled_from(["faq", "re"]))
claims = st.lists(st.builds(Claim, *parts), max_size=25)
modes = st.sampled_from(["group", "wording"])
sources = st.sampled_from([(), ("re",), ("faq", "re")])
seeds = st.integers(0, 30)


@settings(max_examples=200, deadline=None)
@given(claims, claims, modes, sources, seeds)
def test_a_test_only_grows(old: list[Claim], new: list[Claim], mode: str, sources: tuple[str, ...], seed: int) -> None:
    """Whatever is added, and wherever in the order: other groups, other sources, the same question again."""
    chosen = config(split_by=mode, test_sources=sources, seed=seed)
    before, after = by_wording(old, chosen), by_wording([*new, *old], chosen)
    for asked, split in before.items():
        now = after.get(asked)  # none: neither tested nor trained on
        if split == TEST:
            assert now == TEST
        if split == VALIDATION:
            assert now != TRAIN


@settings(deadline=None)
@given(claims, modes, sources, seeds)
def test_wordings_and_groups_have_one_side(items: list[Claim], mode: str, sources: tuple[str, ...], seed: int) -> None:
    chosen = config(split_by=mode, test_sources=sources, seed=seed)
    sides = splits(items, chosen)
    assert len({(claim.wording, claim.group) for claim in sides}) == len({claim.wording for claim in sides})
    if mode == "group":
        assert len({(claim.group, split) for claim, split in sides.items()}) == len({claim.group for claim in sides})
    assert {claim.source for claim, split in sides.items() if split == TEST} <= set(sources or ["faq", "re"])
    assert by_wording(items, chosen) == by_wording(items[::-1], chosen)


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6))), sources, seeds)
def test_by_wording_a_tested_group_trains_too(items: set[tuple[int, int]], sources: tuple[str, ...], seed: int) -> None:
    claims = [Claim(f"{g}-{w}", str(g), "faq" if w < 2 else "re") for g, w in items]
    sides = splits(claims, config(split_by="wording", test_sources=sources, seed=seed))
    trained = {claim.group for claim, split in sides.items() if split == TRAIN}
    assert {claim.group for claim, split in sides.items() if split != TRAIN} <= trained
    if not sources:
        assert trained == {claim.group for claim in claims} and len(sides) == len(claims)


def test_the_seed_changes_the_splits_and_the_shares_are_about_met() -> None:
    items = [Claim(f"{n}", f"g{n}", "faq") for n in range(400)]
    sides = splits(items, config())
    assert sides != splits(items, config(seed=1))
    shares = [sum(side == name for side in sides.values()) / 400 for name in SPLITS]
    assert all(abs(share - wanted) < 0.07 for share, wanted in zip(shares, (0.3, 0.2, 0.5), strict=True))


@pytest.mark.parametrize(("mode", "trained"), [("group", ["other"]), ("wording", ["same topic", "other"])])
def test_a_backfill_does_not_train_on_what_a_later_day_tests(mode: str, trained: list[str]) -> None:
    entries = [(1, key("tested"), key("g"), True, 0, False, "2026-01-31")]
    later = Past(pl.DataFrame(entries, Past().entries.schema, orient="row"))
    asked = [("tested", "g"), ("tested", "h"), ("same topic", "g"), ("other", "i")]
    chosen = config(split_by=mode, test_sources=("re",))  # which asks nothing: all else would be trained on
    found = splits_after(keyed([Claim(*one, "faq") for one in asked], chosen), chosen, later)
    assert [wording for (wording, _), split in zip(asked, found, strict=True) if split] == trained
