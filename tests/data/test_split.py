"""Splits: no leak, stable, as configured."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.config import Annotate
from llmops.data.split import TEST, TRAIN, VALIDATION, normal, splits, wording
from llmops.records import Example, content_id


def example(group: str, question: str, source: str = "faq", answer: str = "a") -> Example:
    return Example(
        **{"id": content_id(group, question, answer), "question": question, "answer": answer, "group": group},
        **{"split": "", "source": source, "location": "", "position": ""},
    )


def config(**more: object) -> Annotate:
    return Annotate(**{"min_test_items": 1, "test": 0.3, "validation": 0.2, **more})


def grid(groups: int, wordings: int) -> list[Example]:
    return [example(f"g{g}", f"Q {g} {w}", "faq" if w == 0 else "chat") for g in range(groups) for w in range(wordings)]


examples = st.lists(
    st.builds(
        lambda g, w, s: example(f"g{g}", f"Q{g}-{w}", s), st.integers(0, 8), st.integers(0, 5), st.sampled_from("ab")
    ),
    unique_by=lambda e: e.id,
)


def test_normal_question() -> None:
    assert normal("  How MUCH\n is it ?! ") == normal("how much is it")
    assert normal("C++") != normal("C")
    assert wording("a", "b") != wording("ab", "") and wording("A?", "B.") == wording("a", "b")


@given(examples, st.integers(0, 3))
def test_a_group_falls_on_one_side(items: list[Example], seed: int) -> None:
    sides = splits(items, config(seed=seed))
    by_group = defaultdict(set)
    for item in items:
        by_group[item.group].add(sides[item.id])
    assert all(len(found) == 1 for found in by_group.values())


@given(examples, st.integers(0, 3))
def test_every_group_keeps_a_wording_in_train(items: list[Example], seed: int) -> None:
    sides = splits(items, config(seed=seed, split_by="wording", test_sources=["b"]))
    trained = {item.group for item in items if sides[item.id] == TRAIN}
    assert trained == {item.group for item in items}
    assert {item.source for item in items if sides[item.id] == TEST} <= {"b"}


@given(examples, st.sampled_from(["group", "wording"]))
@settings(max_examples=50)
def test_the_order_of_the_examples_does_not_matter(items: list[Example], by: str) -> None:
    settings = config(split_by=by, max_test_items=3)
    assert splits(items, settings) == splits(items[::-1], settings)


def test_an_item_keeps_its_split_when_data_grows() -> None:
    small, large = grid(40, 3), grid(80, 3)
    assert splits(small, config()).items() <= splits(large, config()).items()
    by_wording = config(split_by="wording", test_sources=["chat"])
    assert splits(small, by_wording).items() <= splits(grid(40, 6), by_wording).items()


def test_the_seed_changes_the_splits_and_the_shares_are_about_met() -> None:
    items = grid(400, 1)
    sides = splits(items, config())
    assert sides != splits(items, config(seed=1))
    shares = [sum(side == name for side in sides.values()) / 400 for name in (TRAIN, VALIDATION, TEST)]
    assert all(abs(share - wanted) < 0.07 for share, wanted in zip(shares, (0.5, 0.2, 0.3), strict=True))


def test_at_most_so_many_test_items_and_the_rest_is_trained_on() -> None:
    for by in ("group", "wording"):
        free, capped = (splits(grid(60, 3), config(split_by=by, max_test_items=n)) for n in (0, 9))
        tested = {i for i, side in capped.items() if side == TEST}
        assert len(tested) == 9 and tested < {i for i, side in free.items() if side == TEST}
        assert all(capped[i] == TRAIN for i, side in free.items() if side == TEST and i not in tested)
        assert [i for i, s in free.items() if s == VALIDATION] == [i for i, s in capped.items() if s == VALIDATION]


def test_a_tested_group_is_not_trained_on_through_another_source() -> None:
    items = grid(60, 2)
    sides = splits(items, config(test_sources=["chat"]))
    tested = {item.group for item in items if sides.get(item.id) == TEST}
    assert tested
    assert {(i.source, sides.get(i.id)) for i in items if i.group in tested} == {("chat", TEST), ("faq", None)}


def test_one_wording_with_two_answers_stays_together() -> None:
    items = [example(f"g{g}", f"Q{g}{w}", answer=a) for g in range(30) for w in "xyz" for a in "ab"]
    sides = splits(items, config(split_by="wording"))
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert sides[first.id] == sides[second.id]
