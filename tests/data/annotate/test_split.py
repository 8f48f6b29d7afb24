"""Splits: no leak, the test only grows, as configured."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.config import Annotate
from llmops.data.annotate import split
from llmops.data.annotate.split import GroupedQuestion, hash_questions
from llmops.data.annotate.split_history import TEST, TRAIN, VALIDATION, SplitHistory, hash_text

SPLITS = (TEST, VALIDATION, TRAIN)


def make_config(**more: object) -> Annotate:
    return Annotate(**{"min_test_items": 1, "test": 0.3, "validation": 0.2, **more})


def assign_splits(questions: list[GroupedQuestion], settings: Annotate) -> dict[GroupedQuestion, str]:
    found = split.assign_splits(hash_questions(questions, settings), settings, SplitHistory())
    return {question: side for question, side in zip(questions, found, strict=True) if side}


def split_wordings(questions: list[GroupedQuestion], settings: Annotate) -> dict[str, str]:
    """Return wording → split; fail if a wording is in two."""
    sides: dict[str, str] = {}
    for question, side in assign_splits(questions, settings).items():
        assert sides.setdefault(question.wording, side) == side
    return sides


# Few wordings, groups and sources, so that the same question meets in several.
parts = (st.sampled_from("abcdefghij"), st.sampled_from(["g1", "g2", "g3"]), st.sampled_from(["faq", "re"]))
questions = st.lists(st.builds(GroupedQuestion, *parts), max_size=25)
modes = st.sampled_from(["group", "wording"])
sources = st.sampled_from([(), ("re",), ("faq", "re")])
seeds = st.integers(0, 30)


@settings(max_examples=200, deadline=None)
@given(questions, questions, modes, sources, seeds)
def test_a_test_only_grows(
    old: list[GroupedQuestion], new: list[GroupedQuestion], mode: str, sources: tuple[str, ...], seed: int
) -> None:
    """Whatever is added, and wherever in the order: other groups, other sources, the same question again."""
    chosen = make_config(split_by=mode, test_sources=sources, seed=seed)
    before, after = split_wordings(old, chosen), split_wordings([*new, *old], chosen)
    for wording, side in before.items():
        now = after.get(wording)  # none: neither tested nor trained on
        if side == TEST:
            assert now == TEST
        if side == VALIDATION:
            assert now != TRAIN


@settings(deadline=None)
@given(questions, modes, sources, seeds)
def test_wordings_and_groups_have_one_side(
    items: list[GroupedQuestion], mode: str, sources: tuple[str, ...], seed: int
) -> None:
    chosen = make_config(split_by=mode, test_sources=sources, seed=seed)
    sides = assign_splits(items, chosen)
    assert len({(question.wording, question.group) for question in sides}) == len(
        {question.wording for question in sides}
    )
    if mode == "group":
        assert len({(question.group, side) for question, side in sides.items()}) == len(
            {question.group for question in sides}
        )
    assert {question.source for question, side in sides.items() if side == TEST} <= set(sources or ["faq", "re"])
    assert split_wordings(items, chosen) == split_wordings(items[::-1], chosen)


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6))), sources, seeds)
def test_by_wording_a_tested_group_trains_too(items: set[tuple[int, int]], sources: tuple[str, ...], seed: int) -> None:
    questions = [GroupedQuestion(f"{g}-{w}", str(g), "faq" if w < 2 else "re") for g, w in items]
    sides = assign_splits(questions, make_config(split_by="wording", test_sources=sources, seed=seed))
    trained = {question.group for question, side in sides.items() if side == TRAIN}
    assert {question.group for question, side in sides.items() if side != TRAIN} <= trained
    if not sources:
        assert trained == {question.group for question in questions} and len(sides) == len(questions)


def test_the_seed_changes_the_splits_and_the_shares_are_about_met() -> None:
    items = [GroupedQuestion(f"{n}", f"g{n}", "faq") for n in range(400)]
    sides = assign_splits(items, make_config())
    assert sides != assign_splits(items, make_config(seed=1))
    shares = [sum(side == name for side in sides.values()) / 400 for name in SPLITS]
    assert all(abs(share - wanted) < 0.07 for share, wanted in zip(shares, (0.3, 0.2, 0.5), strict=True))


@pytest.mark.parametrize(("mode", "trained"), [("group", ["other"]), ("wording", ["same topic", "other"])])
def test_a_backfill_does_not_train_on_what_a_later_day_tests(mode: str, trained: list[str]) -> None:
    entries = [(1, hash_text("tested"), hash_text("g"), True, 0, False, "2026-01-31")]
    later = SplitHistory(pl.DataFrame(entries, SplitHistory().entries.schema, orient="row"))
    pairs = [("tested", "g"), ("tested", "h"), ("same topic", "g"), ("other", "i")]
    chosen = make_config(split_by=mode, test_sources=("re",))  # which asks nothing: all else would be trained on
    questions = hash_questions([GroupedQuestion(*one, "faq") for one in pairs], chosen)
    found = split.assign_splits(questions, chosen, later)
    assert [wording for (wording, _), side in zip(pairs, found, strict=True) if side] == trained
