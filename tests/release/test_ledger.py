"""The budget of a frozen test: what attempts spend, what new items give back, and who counts as the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.artifacts import Record
from llmops.config import Release
from llmops.release import ledger
from llmops.release.ledger import ALPHA, Attempt, Chance, LedgerMoved, frozen_test, next_chance
from llmops.state.database import Database

ITEMS = [f"i{n}" for n in range(60)]


def spent(attempts: list[Attempt], items: list[str], version: str = "", identity: str = "") -> tuple[Chance, Attempt]:
    chance = next_chance(attempts, items)
    name = version or f"v{len(attempts) + 1}"
    asked = (chance.number, name, identity or name, tuple(items), chance.level, chance.left)
    row = Attempt(frozen_test(items), *asked, "rejected")
    attempts.append(row)
    return chance, row


def test_levels_fall_and_add_up_to_the_budget() -> None:
    attempts: list[Attempt] = []
    chances = [spent(attempts, ITEMS)[0] for _ in range(300)]
    for k, chance in enumerate(chances, 1):
        assert chance.number == k
        assert chance.level == pytest.approx(ALPHA / (k * (k + 1)))
        assert chance.left == pytest.approx(ALPHA / (k + 1))
    assert sum(chance.level for chance in chances) < ALPHA


def test_only_new_items_give_back_and_only_their_share() -> None:
    attempts: list[Attempt] = []
    for _ in range(4):
        spent(attempts, ITEMS)
    before = next_chance(attempts, ITEMS)
    assert next_chance(attempts, random.Random(1).sample(ITEMS, 60)) == before
    assert next_chance(attempts, ITEMS[:30]).before == pytest.approx(before.before)  # fewer items are no news
    grown = next_chance(attempts, ITEMS + ["n1", "n2", "n3"])
    assert grown.number == 5
    assert grown.before == pytest.approx(before.before + (ALPHA - before.before) * 3 / 63)
    doubled = next_chance(attempts, ITEMS + [f"n{i}" for i in range(60)])
    assert doubled.before == pytest.approx((before.before + ALPHA) / 2)


def test_an_item_gives_back_once() -> None:
    attempts: list[Attempt] = []
    for _ in range(4):
        spent(attempts, ITEMS)
    spent(attempts, [*ITEMS, "n1"])
    before = attempts[-1].left
    assert next_chance(attempts, [*ITEMS, "n1"]).before == pytest.approx(before)
    assert next_chance(attempts, [*ITEMS[1:], "n1"]).before == pytest.approx(before)


def test_a_test_of_new_items_alone_starts_anew_and_the_old_one_has_what_it_had() -> None:
    attempts: list[Attempt] = []
    for _ in range(4):
        spent(attempts, ITEMS)
    old = attempts[-1].left
    others = [f"o{n}" for n in range(60)]
    chance, _ = spent(attempts, others)
    assert (chance.number, chance.before) == (1, ALPHA)
    back = next_chance(attempts, ITEMS)
    assert (back.number, back.before) == (5, pytest.approx(old))
    grown = next_chance(attempts, [*ITEMS, "n1"])  # and no more than the new item's share
    assert (grown.number, grown.before) == (5, pytest.approx(old + (ALPHA - old) / 61))


def test_a_test_that_borrows_an_item_does_not_refill_the_one_that_it_is_from() -> None:
    attempts: list[Attempt] = []
    for _ in range(4):
        spent(attempts, ITEMS)
    old = attempts[-1].left
    mixed, _ = spent(attempts, [ITEMS[0], *(f"o{n}" for n in range(59))])
    assert mixed.number == 5 and mixed.before == pytest.approx(old + (ALPHA - old) * 59 / 60)
    back = next_chance(attempts, ITEMS)
    assert back.number == 6 and back.before < old


def test_the_less_asked_half_of_a_test_has_no_more_than_the_whole() -> None:
    attempts: list[Attempt] = []
    for _ in range(4):
        spent(attempts, ITEMS)
    new = [f"n{n}" for n in range(60)]
    _, both = spent(attempts, [*ITEMS, *new])
    assert next_chance(attempts, new).before == pytest.approx(both.left)


def test_what_two_tests_have_spent_counts_in_the_two_together() -> None:
    attempts, others = list[Attempt](), [f"o{n}" for n in range(60)]
    for items, times in ((ITEMS, 4), (others, 2)):
        for _ in range(times):
            spent(attempts, items)
    both = next_chance(attempts, [*ITEMS, *others])
    assert both.before == pytest.approx((ALPHA / 5 + ALPHA / 3) / 2)


def test_items_that_have_been_asked_too_often_have_nothing_left() -> None:
    attempts: list[Attempt] = []
    for n in range(9):
        spent(attempts, [ITEMS[0], *(f"s{n}-{i}" for i in range(59))])
    chance = next_chance(attempts, ITEMS[:1])
    assert (chance.before, chance.level) == (0, 0)


@pytest.mark.parametrize("seed", range(10))
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
        assert 0 < chance.level < chance.before <= ALPHA
    assert total < ALPHA * given


def test_no_items_are_no_error() -> None:
    assert next_chance([], []).before == ALPHA


def records(**changed: Any) -> dict[str, Record]:
    def record(stage: str, config: dict[str, Any], files: dict[str, str] | None = None) -> Record:
        known = Record(stage, "f", config, {}, "2026-01-31", "c0de", {}, files or {}, "", "", "")
        return replace(known, environment=changed.get("environment", {"torch": "2.13"}) if stage == "train" else {})

    data = {"train.parquet": changed.get("data", "1"), "test.parquet": changed.get("test", "2")}
    tune = {"trials": 2, "seed": changed.get("seed", 0), "train": {"rank": 8, "seed": changed.get("seed", 0)}}
    return {
        "annotate": record("annotate", {"seed": 0}, data),
        "select": record("select", {}, {"base/model.safetensors": changed.get("weights", "3")}),
        "tune": record("tune", tune),
        "train": record("train", {"rank": changed.get("rank", 8), "seed": changed.get("seed", 0)}),
        "compress": replace(record("compress", {}), code=changed.get("code", "c0de")),
        "evaluate": record(
            "evaluate",
            {"max_new_tokens": changed.get("tokens", 9), "seed": changed.get("seed", 0)} | changed.get("beside", {}),
        ),
    }


def test_seeds_make_no_other_candidate_and_everything_else_does() -> None:
    base = {"model": "m", "revision": "r", "path": "/a", "weights": {"m.safetensors": "1", "config.json": "2"}}
    own = ledger.identity(records(), Release(), base)
    assert ledger.identity(records(seed=7), Release(), base) == own
    assert ledger.identity(records(test="grown"), Release(), base) == own
    assert ledger.identity(records(), Release(canary=True, registry=Path("elsewhere")), base) == own
    assert ledger.identity(records(), Release(), {**base, "path": "/b"}) == own
    grounded = {"grounding": {"enabled": True, "likeness": 0.5}, "grounded_items": 20}
    assert ledger.identity(records(beside=grounded), Release(), base) == own  # the gate reads none of it
    other = ({"data": "9"}, {"weights": "9"}, {"rank": 16}, {"code": "new"}, {"tokens": 5})
    for changed in (*other, {"environment": {"torch": "2.14"}}):
        assert ledger.identity(records(**changed), Release(), base) != own, changed
    assert ledger.identity(records(), Release(min_effect=0.5), base) != own
    for of_base in ({"model": "n"}, {"revision": "s"}, {"weights": {"m.safetensors": "9"}}):
        assert ledger.identity(records(), Release(), {**base, **of_base}) != own, of_base


def test_documents_count_where_answers_are_from_them_and_training_where_there_was_some() -> None:
    base = {"model": "m", "revision": "r", "path": "/a", "weights": {}}

    def identity(index: str = "pages", likeness: float = 0.4, enabled: bool = False, **changed: Any) -> str:
        known = records(beside={"grounding": {"likeness": likeness}}, **changed)
        known["evaluate"] = replace(known["evaluate"], contents={"index": index})
        known["train"] = replace(known["train"], config=known["train"].config | {"enabled": enabled})
        return ledger.identity(known, Release(), base, as_served=True)

    own = identity()
    assert len({own, identity(index="more pages"), identity(likeness=0.5), identity(tokens=5)}) == 4
    assert identity(data="9", rank=16) == own and identity(data="9", enabled=True) != identity(enabled=True)

    _, row = spent([], ITEMS, "v1", own)
    assert ledger.is_settled(replace(row, outcome="promoted"), identity(index="more pages"))  # it stays promoted
    assert not ledger.is_settled(replace(row, outcome="promoted"), identity(tokens=5))
    assert not ledger.is_settled(replace(row, outcome="rejected"), identity(index="more pages"))
    assert ledger.is_settled(replace(row, outcome="rejected"), own)


def test_a_twin_is_of_another_version_and_of_the_same_test() -> None:
    attempts: list[Attempt] = []
    _, row = spent(attempts, ITEMS, "v1", "same")
    assert ledger.twin(attempts, row.test, "same", "v2") == row
    assert ledger.twin(attempts, row.test, "same", "v1") is None
    assert ledger.twin(attempts, "another", "same", "v2") is None
    assert ledger.twin(attempts, row.test, "other", "v2") is None


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path}/state.db")
    fresh: Callable[[], str] = request.getfixturevalue("postgresql")
    return Database(fresh())


def test_rows_come_back_as_they_were_and_each_model_has_its_own(database: Database) -> None:
    attempts: list[Attempt] = []
    for items in (ITEMS, [*ITEMS, "n1"]):
        chance, row = spent(attempts, items)
        with database.change() as connection:
            ledger.spend(connection, "bot", chance, row)
    with database.read() as connection:
        assert ledger.read(connection, "bot") == attempts
        assert ledger.read(connection, "other") == []


def test_an_attempt_that_came_between_is_noticed_and_nothing_is_spent(database: Database) -> None:
    first, row = spent([], ITEMS)
    with database.change() as connection:
        ledger.spend(connection, "bot", first, row)
    with pytest.raises(LedgerMoved), database.change() as connection:
        ledger.spend(connection, "bot", first, replace(row, version="v2"))
    with database.read() as connection:
        assert ledger.read(connection, "bot") == [row]
