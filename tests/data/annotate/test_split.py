"""Splits: no leak, the test only grows, as configured."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.config import Annotate
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Past
from llmops.data.annotate.split import Claim, keyed, normalized, wording_id
from llmops.data.annotate.split import splits as splits_after

SPLITS = (TEST, VALIDATION, TRAIN)


def config(**more: object) -> Annotate:
    return Annotate(**{"min_test_items": 1, "test": 0.3, "validation": 0.2, **more})


def splits(claims: list[Claim], settings: Annotate) -> dict[Claim, str]:
    """Those of a first run."""
    found = splits_after(keyed(claims, settings), settings, Past())
    return {claim: split for claim, split in zip(claims, found, strict=True) if split}


def grid(groups: int, wordings: int) -> list[Claim]:
    return [Claim(f"{g}-{w}", f"g{g}", "faq" if w == 0 else "chat") for g in range(groups) for w in range(wordings)]


def by_wording(claims: list[Claim], settings: Annotate) -> dict[str, str]:
    """Wording → split; fails if a wording is in two."""
    sides: dict[str, str] = {}
    for claim, split in splits(claims, settings).items():
        assert sides.setdefault(claim.wording, split) == split
    return sides


def lesson(count: int, group: str = "said") -> list[Claim]:
    """A topic that only users tell of."""
    return [Claim(f"{group}-{w}", group, "users", said=True) for w in range(count)]


# Few wordings, groups and sources, so that the same question meets in several.
claims = st.lists(
    st.builds(
        Claim,
        st.sampled_from("abcdefghij"),
        st.sampled_from(["g1", "g2", "g3"]),
        st.sampled_from(["faq", "re"]),
        said=st.just(False),  # what is said stays in the test by the ledger alone, see below
    ),
    max_size=25,
)
modes = st.sampled_from(["group", "wording"])
sources = st.sampled_from([(), ("re",), ("faq", "re")])
seeds = st.integers(0, 30)


def test_normal_question() -> None:
    assert normalized("  How MUCH\n is it ?! ") == normalized("how much is it")
    assert normalized("C++") != normalized("C")
    assert wording_id("a", "b") != wording_id("ab", "") and wording_id("A?", "B.") == wording_id("a", "b")


@settings(max_examples=400, deadline=None)
@given(claims, claims, modes, sources, seeds)
def test_the_test_only_grows(
    old: list[Claim], new: list[Claim], mode: str, sources: tuple[str, ...], seed: int
) -> None:
    """Whatever is added, and wherever in the order: other groups, other sources, the same question again."""
    chosen = config(split_by=mode, test_sources=sources, seed=seed)
    before, after = by_wording(old, chosen), by_wording([*new, *old], chosen)
    for asked, split in before.items():
        now = after.get(asked)  # none: neither tested nor trained on
        if split == TEST:
            assert now == TEST
        if split == VALIDATION:
            assert now != TRAIN


@settings(max_examples=400, deadline=None)
@given(claims, claims, seeds)
def test_with_test_sources_no_wording_moves_from_train_to_test(old: list[Claim], new: list[Claim], seed: int) -> None:
    """But one that both a test source and another ask: it may not leave the test, whichever was first."""
    chosen = config(split_by="wording", test_sources=["re"], seed=seed)
    asked_by = defaultdict(set)
    for claim in [*new, *old]:
        asked_by[claim.wording].add(claim.source)
    before, after = by_wording(old, chosen), by_wording([*new, *old], chosen)
    moved = {w for w, split in before.items() if split == TRAIN and after.get(w) == TEST}
    assert all(asked_by[w] == {"faq", "re"} for w in moved)


@settings(deadline=None)
@given(claims, modes, sources, seeds)
def test_a_wording_is_in_one_group_and_a_group_on_one_side(
    items: list[Claim], mode: str, sources: tuple[str, ...], seed: int
) -> None:
    sides = splits(items, config(split_by=mode, test_sources=sources, seed=seed))
    groups, seen = defaultdict(set), defaultdict(set)
    for claim, split in sides.items():
        groups[claim.wording].add(claim.group)
        seen[claim.group].add(split)
    assert all(len(found) == 1 for found in groups.values())
    if mode == "group":
        assert all(len(found) == 1 for found in seen.values())
    assert {claim.source for claim, split in sides.items() if split == TEST} <= set(sources or ["faq", "re"])


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6))), sources, seeds)
def test_in_wording_mode_a_tested_group_is_trained_on_too(
    items: set[tuple[int, int]], sources: tuple[str, ...], seed: int
) -> None:
    claims = [Claim(f"{g}-{w}", str(g), "faq" if w < 2 else "re") for g, w in items]
    sides = splits(claims, config(split_by="wording", test_sources=sources, seed=seed))
    trained = {claim.group for claim, split in sides.items() if split == TRAIN}
    assert {claim.group for claim, split in sides.items() if split != TRAIN} <= trained
    if not sources:
        assert trained == {claim.group for claim in claims} and len(sides) == len(claims)


@settings(deadline=None)
@given(claims, modes, sources, seeds)
def test_the_order_of_the_examples_does_not_matter(
    items: list[Claim], mode: str, sources: tuple[str, ...], seed: int
) -> None:
    chosen = config(split_by=mode, test_sources=sources, seed=seed)
    assert by_wording(items, chosen) == by_wording(items[::-1], chosen)


@pytest.mark.parametrize("more", [{}, {"split_by": "wording", "test_sources": ["chat"]}])
def test_an_item_keeps_its_split_when_other_topics_come(more: dict[str, Any]) -> None:
    assert splits(grid(40, 3), config(**more)).items() <= splits(grid(80, 3), config(**more)).items()


def test_the_seed_changes_the_splits_and_the_shares_are_about_met() -> None:
    items = grid(400, 1)
    sides = splits(items, config())
    assert sides != splits(items, config(seed=1))
    shares = [sum(side == name for side in sides.values()) / 400 for name in SPLITS]
    assert all(abs(share - wanted) < 0.07 for share, wanted in zip(shares, (0.3, 0.2, 0.5), strict=True))


def test_a_tested_group_is_not_trained_on_through_another_source() -> None:
    items = grid(60, 2)
    sides = splits(items, config(test_sources=["chat"]))
    tested = {claim.group for claim, split in sides.items() if split == TEST}
    assert tested
    assert {(c.source, sides.get(c)) for c in items if c.group in tested} == {("chat", TEST), ("faq", None)}


def test_of_groups_that_could_have_a_question_the_first_has_it_unless_another_tests_it() -> None:
    chosen = config(test=0.5, validation=0.1)
    tested, trained = ([g for g in "abcdefghijkl" if set(splits([Claim("q", g, "s")], chosen).values()) == {side}]
                       for side in (TEST, TRAIN))  # fmt: skip
    first = [Claim("q", trained[1], "s"), Claim("q", trained[0], "s")]
    assert splits(first, chosen) == {first[0]: TRAIN}
    assert splits([*first, Claim("q", tested[0], "s")], chosen) == {Claim("q", tested[0], "s"): TEST}


@pytest.mark.parametrize("by", ["group", "wording"])
@pytest.mark.parametrize(("count", "tested"), [(1, 0), (2, 1), (3, 1), (6, 1), (7, 2), (20, 6)])
def test_a_lesson_is_taught_and_tested_in_other_words(by: str, count: int, tested: int) -> None:
    for group in "abc":
        sides = Counter(splits([*lesson(count, group), *grid(30, 3)], config(split_by=by)).values())
        sides -= Counter(splits(grid(30, 3), config(split_by=by)).values())
        assert (sides[TEST], sides[TRAIN], sides[VALIDATION]) == (tested, count - tested, 0)
        assert splits(grid(30, 3), config(split_by=by)).items() <= splits([*lesson(count, group), *grid(30, 3)],
                                                                          config(split_by=by)).items()  # fmt: skip


def test_a_lesson_is_not_tested_where_others_are_the_test_sources() -> None:
    assert set(splits(lesson(9), config(test_sources=["faq"])).values()) == {TRAIN}


def test_what_a_source_tells_of_too_is_no_lesson() -> None:
    for group in "abcdefgh":
        assert len(set(splits([*lesson(9, group), Claim("other", group, "faq")], config()).values())) == 1


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=5), modes, seeds)
def test_a_lesson_that_grows_keeps_what_it_has_tested_and_taught(days: list[set[int]], mode: str, seed: int) -> None:
    chosen, past, known = config(split_by=mode, seed=seed), Past(), dict[int, str]()
    asked: set[int] = set()
    for run, more in enumerate(days):
        asked |= more
        claims = [lesson(10)[w] for w in sorted(asked)]
        numbers = keyed(claims, chosen)
        found = splits_after(numbers, chosen, past)
        sides = dict(zip(sorted(asked), found, strict=True))
        assert known.items() <= sides.items()
        assert TRAIN in sides.values() and (TEST in sides.values()) == (len(asked) > 1)
        known = {w: side for w, side in sides.items() if side}
        ids = numbers.with_columns(split=found, id=pl.col("wording"), interval=pl.lit(f"2026-01-{run + 1:02}"))
        past = past.after(ids, run)
