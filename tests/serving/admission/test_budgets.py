"""Budgets of keys: counted in memory, added up over processes, exact within one, and anew each month."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmops.access.keys import keys_of
from llmops.access.roles import Key
from llmops.access.usage import read_usage
from llmops.config import Config
from llmops.frame.errors import StateUnavailable
from llmops.privacy.erasure.feedback import forget_reviews
from llmops.state.database import Database, database_of
from serving.admission import budgets as module
from serving.admission.budgets import Budgets
from serving.errors import BudgetUsed, LimitExceeded
from tests.clock import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 1, 31, 23, 0, tzinfo=UTC))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return database_of(Config(home=tmp_path))


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return keys_of(Config(home=tmp_path)).create("user", "shop", tokens_per_month=100)[1]


def make_event(
    key: Key, tokens: int, status: int = 200, clock: FakeClock | None = None, **fields: Any
) -> dict[str, Any]:
    time = clock.time.isoformat() if clock else "2026-01-31T22:00:00"
    usage = {"gen_ai.usage.input_tokens": tokens // 2, "gen_ai.usage.output_tokens": tokens - tokens // 2}
    base = {"@timestamp": time, "http.response.status_code": status, "llmops.key.prefix": key.prefix}
    return {**base, "llmops.model.version": "v1", **(usage if tokens else {}), **fields}


async def test_a_budget_is_exact_within_a_process_and_names_its_end(
    database: Database, key: Key, clock: FakeClock
) -> None:
    budgets = Budgets(database, "bot", clock)
    for number in range(10):
        budgets.check(key)
        budgets.count(make_event(key, 10))
        if number in (0, 1, 6):
            await budgets.synchronize()  # whatever is in the database already
    with pytest.raises(BudgetUsed, match=r"100 tokens a month and has used 100; .*2026-02-01 00:00 UTC") as refused:
        budgets.check(key)
    assert refused.value.retry_after_s == 3600
    budgets.check(replace(key, tokens_per_month=101))
    for free in (None, 0):
        budgets.check(replace(key, tokens_per_month=free))
    await budgets.synchronize()
    with pytest.raises(BudgetUsed):
        budgets.check(key)
    with pytest.raises(BudgetUsed):
        again = Budgets(database, "bot", clock)  # after a restart
        await again.synchronize()
        again.check(key)


async def test_processes_add_up(database: Database, key: Key, clock: FakeClock) -> None:
    one, other = Budgets(database, "bot", clock), Budgets(Database(database.url), "bot", clock)
    one.count(make_event(key, 60))
    other.count(make_event(key, 60))
    for budgets in (one, other):
        budgets.check(key)
    await one.synchronize()
    one.check(key)  # it does not know the other's use yet
    await other.synchronize()
    with pytest.raises(BudgetUsed, match="used 120"):
        other.check(key)
    await one.synchronize()
    with pytest.raises(BudgetUsed, match="used 120"):
        one.check(key)


async def test_a_month_begins_with_a_whole_budget(database: Database, key: Key, clock: FakeClock) -> None:
    budgets = Budgets(database, "bot", clock)
    budgets.count(make_event(key, 100, clock=clock))
    with pytest.raises(BudgetUsed):
        budgets.check(key)
    clock.advance(3599)
    with pytest.raises(BudgetUsed) as refused:
        budgets.check(key)
    assert refused.value.retry_after_s == 1
    clock.advance(1)
    budgets.check(key)  # before the last month's counts are in the database
    budgets.count(make_event(key, 99, clock=clock))
    await budgets.synchronize()
    budgets.check(key)
    budgets.count(make_event(key, 50))  # it came in January and ended now
    budgets.check(key)
    budgets.count(make_event(key, 1, clock=clock))
    with pytest.raises(BudgetUsed):
        budgets.check(key)
    await budgets.synchronize()
    used = {month: read_usage(database, month).keys[0] for month in ("2026-01", "2026-02")}
    assert {month: (one.requests, one.input_tokens + one.output_tokens) for month, one in used.items()} == {
        "2026-01": (2, 150),
        "2026-02": (2, 100),
    }


async def test_tokens_count_whatever_became_of_the_answer_and_requests_if_they_were_answered(
    database: Database, key: Key, clock: FakeClock
) -> None:
    budgets = Budgets(database, "bot", clock)
    for tokens, status in ((7, 200), (0, 200), (5, 499), (3, 500), (0, 422), (0, 429), (0, 503)):
        budgets.count(make_event(key, tokens, status))
    budgets.count({**make_event(key, 4), "llmops.model.version": None, "gen_ai.request.model": "all-MiniLM-L6-v2"})
    budgets.count({**make_event(key, 4), "llmops.key.prefix": None})
    budgets.count({**make_event(key, 0, 404), "llmops.model.version": None, "gen_ai.request.model": "x" * 90_000})
    await budgets.synchronize()
    days = [
        (one.model, one.requests, one.input_tokens, one.output_tokens) for one in read_usage(database, "2026-01").days
    ]
    assert days == [("all-MiniLM-L6-v2", 1, 2, 2), ("bot:v1", 2, 6, 9)]


async def test_nothing_is_lost_while_the_database_is_away(
    database: Database, key: Key, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    budgets = Budgets(database, "bot", clock)

    def fail(*arguments: object) -> None:
        budgets.count(make_event(key, 10))  # one that ends meanwhile
        raise StateUnavailable("away")

    with monkeypatch.context() as patch:
        for broken in ("add_usage", "sum_budgeted_tokens"):
            patch.setattr(module, broken, fail)
            for _ in range(2):
                budgets.count(make_event(key, 10))
                await budgets.synchronize()
            patch.undo()
        budgets.check(key)
        budgets.count(make_event(key, 20))
        with pytest.raises(BudgetUsed, match="used 100"):
            budgets.check(key)
    assert len(caplog.records) == 1
    await budgets.stop()
    (used,) = read_usage(database, "2026-01").keys
    assert (used.requests, used.input_tokens + used.output_tokens) == (9, 100)
    with pytest.raises(BudgetUsed, match="used 100"):
        budgets.check(key)


async def test_the_usage_of_an_erased_key_is_not_written_back(database: Database, key: Key, clock: FakeClock) -> None:
    budgets = Budgets(database, "bot", clock)
    budgets.count(make_event(key, 10))
    await budgets.synchronize()
    budgets.count(make_event(key, 10))
    forget_reviews(database, [], [key.prefix])
    await budgets.synchronize()
    assert read_usage(database, "2026-01").keys == []


async def test_a_stop_adds_the_last_counts(database: Database, key: Key, clock: FakeClock) -> None:
    budgets = Budgets(database, "bot", clock)
    budgets.start()
    budgets.count(make_event(key, 10))
    await budgets.stop()
    assert read_usage(database, "2026-01").keys[0].requests == 1


async def test_requests_at_once_cannot_share_the_rest_of_a_budget(
    database: Database, key: Key, clock: FakeClock
) -> None:
    budgets = Budgets(database, "bot", clock)
    budgets.count(make_event(key, 96))
    budgets.reserve(key, "first", 50)  # alone it may pass the budget, by this one answer
    for number in range(49):
        with pytest.raises(LimitExceeded, match="4 tokens of this month left, .* reserved 50") as refused:
            budgets.reserve(key, f"other {number}", 50)
        assert refused.value.retry_after_s == 1 and not isinstance(refused.value, BudgetUsed)
    budgets.reserve(replace(key, prefix="other"), "of another key", 50)
    budgets.count(make_event(key, 2, **{"event.id": "first"}))
    budgets.reserve(key, "second", 1)
    budgets.reserve(key, "third", 1)
    budgets.release("second")
    budgets.reserve(key, "fourth", 1)
    with pytest.raises(LimitExceeded):
        budgets.reserve(key, "fifth", 1)
    budgets.count(make_event(key, 2))
    with pytest.raises(BudgetUsed):
        budgets.reserve(key, "sixth", 1)
