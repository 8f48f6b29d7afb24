"""The budget of a frozen test: what attempts spend, what new items give back, and who counts as the same."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.config import Release
from llmops.frame.artifacts import Record
from llmops.release import ledger
from llmops.release.ledger import ALPHA, Attempt, Chance, LedgerChanged, compute_next_chance, hash_test
from llmops.state.database import Database

ITEMS = [f"i{n}" for n in range(60)]


def spent(attempts: list[Attempt], items: list[str]) -> tuple[Chance, Attempt]:
    chance, name = compute_next_chance(attempts, items), f"v{len(attempts) + 1}"
    row = Attempt(hash_test(items), chance.number, name, name, tuple(items), chance.level, chance.left, "rejected")
    attempts.append(row)
    return chance, row


@pytest.fixture
def attempts() -> list[Attempt]:
    """Four on the same items."""
    made: list[Attempt] = []
    for _ in range(4):
        spent(made, ITEMS)
    return made


def test_levels_fall_and_add_up_to_the_budget() -> None:
    attempts: list[Attempt] = []
    chances = [spent(attempts, ITEMS)[0] for _ in range(300)]
    for k, chance in enumerate(chances, 1):
        assert chance.number == k
        assert chance.level == pytest.approx(ALPHA / (k * (k + 1)))
        assert chance.left == pytest.approx(ALPHA / (k + 1))
    assert sum(chance.level for chance in chances) < ALPHA and compute_next_chance([], []).budget == ALPHA


def test_only_new_items_give_back_and_only_their_share(attempts: list[Attempt]) -> None:
    before = compute_next_chance(attempts, ITEMS)
    assert compute_next_chance(attempts, random.Random(1).sample(ITEMS, 60)) == before
    assert compute_next_chance(attempts, ITEMS[:30]).budget == pytest.approx(before.budget)  # fewer items are no news
    grown = compute_next_chance(attempts, ITEMS + ["n1", "n2", "n3"])
    assert grown.number == 5
    assert grown.budget == pytest.approx(before.budget + (ALPHA - before.budget) * 3 / 63)
    doubled = compute_next_chance(attempts, ITEMS + [f"n{i}" for i in range(60)])
    assert doubled.budget == pytest.approx((before.budget + ALPHA) / 2)
    left = spent(attempts, [*ITEMS, "n1"])[1].left
    for items in ([*ITEMS, "n1"], [*ITEMS[1:], "n1"]):  # an item gives back once
        assert compute_next_chance(attempts, items).budget == pytest.approx(left)


def test_items_that_have_been_asked_too_often_have_nothing_left() -> None:
    attempts: list[Attempt] = []
    for n in range(9):  # one item in nine tests, new ones beside it
        spent(attempts, [ITEMS[0], *(f"s{n}-{i}" for i in range(59))])
    chance = compute_next_chance(attempts, ITEMS[:1])
    assert (chance.budget, chance.level) == (0, 0)


def test_a_test_of_new_items_alone_starts_anew_and_the_old_one_has_what_it_had(attempts: list[Attempt]) -> None:
    old = attempts[-1].left
    others = [f"o{n}" for n in range(60)]
    chance, _ = spent(attempts, others)
    assert (chance.number, chance.budget) == (1, ALPHA)
    back = compute_next_chance(attempts, ITEMS)
    assert (back.number, back.budget) == (5, pytest.approx(old))
    grown = compute_next_chance(attempts, [*ITEMS, "n1"])  # and no more than the new item's share
    assert (grown.number, grown.budget) == (5, pytest.approx(old + (ALPHA - old) / 61))


def test_a_test_that_borrows_an_item_does_not_refill_the_one_that_it_is_from(attempts: list[Attempt]) -> None:
    old = attempts[-1].left
    mixed, _ = spent(attempts, [ITEMS[0], *(f"o{n}" for n in range(59))])
    assert mixed.number == 5 and mixed.budget == pytest.approx(old + (ALPHA - old) * 59 / 60)
    back = compute_next_chance(attempts, ITEMS)
    assert back.number == 6 and back.budget < old


def test_what_two_tests_have_spent_counts_in_the_two_together() -> None:
    attempts, others = list[Attempt](), [f"o{n}" for n in range(60)]
    for items, times in ((ITEMS, 4), (others, 2)):
        for _ in range(times):
            spent(attempts, items)
    both = compute_next_chance(attempts, [*ITEMS, *others])
    assert both.budget == pytest.approx((ALPHA / 5 + ALPHA / 3) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_of_growth_and_attempts_the_levels_stay_within_the_budget(seed: int) -> None:
    rng, attempts, items, total, given = random.Random(seed), list[Attempt](), list(ITEMS), 0.0, 1.0
    known: set[str] = set()
    for step in range(60):
        if rng.random() < 0.2:
            new = [f"s{step}-{n}" for n in range(rng.randint(1, 40))]
            items += new
        if rng.random() < 0.2:
            items = rng.sample(items, max(1, len(items) - rng.randint(0, 5)))
        chance, _ = spent(attempts, items)
        total += chance.level
        if step:
            given += len(set(items) - known) / len(set(items))
        known |= set(items)
        assert 0 < chance.level < chance.budget <= ALPHA
    assert total < ALPHA * given


def records(**changed: Any) -> dict[str, Record]:
    def record(stage: str, config: dict[str, Any], files: dict[str, str] | None = None) -> Record:
        known = Record(stage, "f", config, {}, "2026-01-31", "c0de", {}, files or {}, "", "", "")
        return replace(known, environment=changed.get("environment", {"torch": "2.13"}) if stage == "train" else {})

    data = {"train.parquet": changed.get("data", "1"), "test.parquet": changed.get("test", "2")}
    tune = {"trials": 2, "seed": changed.get("seed", 0), "train": {"rank": 8, "seed": changed.get("seed", 0)}}
    return {
        "annotate": record("annotate", {"seed": 0}, data),
        "features": replace(
            record("features", changed.get("documents", {})),
            contents={"index": changed.get("prompts", "6")} if "documents" in changed else {},
        ),
        "select": record("select", {}, {"base/model.safetensors": changed.get("weights", "3")}),
        "tune": record("tune", tune),
        "train": record("train", {"rank": changed.get("rank", 8), "seed": changed.get("seed", 0)}),
        "compress": replace(record("compress", {}), code=changed.get("code", "c0de")),
        "evaluate": record(
            "evaluate",
            {"max_new_tokens": changed.get("tokens", 9), "seed": changed.get("seed", 0)} | changed.get("documents", {}),
        ),
        "index": replace(record("index", {}), content=changed.get("index", "5")),
    }


def test_seeds_make_no_other_candidate_and_everything_else_does() -> None:
    base = {"model": "m", "revision": "r", "path": "/a", "weights": {"m.safetensors": "1", "config.json": "2"}}
    own = ledger.hash_identity(records(), Release(), base)
    assert ledger.hash_identity(records(seed=7), Release(), base) == own
    assert ledger.hash_identity(records(test="grown"), Release(), base) == own
    assert ledger.hash_identity(records(), Release(canary=True, registry=Path("elsewhere")), base) == own
    assert ledger.hash_identity(records(), Release(), {**base, "path": "/b"}) == own
    other = ({"data": "9"}, {"weights": "9"}, {"rank": 16}, {"code": "new"}, {"tokens": 5})
    for changed in (*other, {"environment": {"torch": "2.14"}}):
        assert ledger.hash_identity(records(**changed), Release(), base) != own, changed
    assert ledger.hash_identity(records(), Release(min_effect=0.5), base) != own
    sections = [
        {"grounding": {"passages": n}, "serving": {"max_context": n}, "collect": {"sources": [n]}} for n in (1, 2)
    ]
    one, two = (records(documents=documents) for documents in sections)
    later = two | {"features": one["features"]}  # the documents changed after the training
    same, other = (ledger.hash_identity(known, Release(), base) for known in (later, records()))
    assert ledger.hash_identity(one, Release(), base) == same != other
    for trained in (two, records(documents=sections[0], prompts="7")):
        assert ledger.hash_identity(trained, Release(), base) != ledger.hash_identity(one, Release(), base)
    for of_base in ({"model": "n"}, {"revision": "s"}, {"weights": {"m.safetensors": "9"}}):
        assert ledger.hash_identity(records(), Release(), {**base, **of_base}) != own, of_base


def test_a_base_with_documents_is_another_with_other_settings() -> None:
    base = {"model": "m", "revision": "r", "path": "/a", "weights": {"m.safetensors": "1"}}
    writes, quotes, moved = (
        records(documents={"grounding": {"answer": answer}, "serving": {}, "collect": {"sources": [source]}})
        for answer, source in (("model", 1), ("quote", 1), ("model", 2))
    )
    identity = ledger.hash_untrained_identity(writes, Release(), base)
    assert ledger.hash_untrained_identity(quotes, Release(), base) != identity
    assert ledger.hash_untrained_identity(moved, Release(), base) == identity  # the index stands for the sources


def test_rows_come_back_as_they_were_and_an_attempt_that_came_between_is_noticed(database_url: str) -> None:
    database = Database(database_url)
    attempts: list[Attempt] = []
    for items in (ITEMS, [*ITEMS, "n1"]):
        chance, row = spent(attempts, items)
        with database.change() as connection:
            ledger.record_attempt(connection, "bot", chance, row)
    with pytest.raises(LedgerChanged), database.change() as connection:
        ledger.record_attempt(connection, "bot", chance, replace(row, version="v9"))
    with database.read() as connection:
        assert ledger.read(connection, "bot") == attempts
        assert ledger.read(connection, "other") == []
