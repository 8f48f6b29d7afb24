"""A key with a budget asks until it is used up, and everybody sees what they may of it."""

import csv
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from llmops.access.usage import find_month_end, format_month
from llmops.events.datasets import AUDIT
from serving.admission import budgets
from tests.clock import wait_until
from tests.serving.test_request_events import ROUTES

HELLO: Any = [{"role": "user", "content": "one two three"}]
MONTH = format_month(datetime.now(UTC))


def read(client: TestClient, key: str, **query: str) -> Any:
    return client.get("/usage", params=query, headers={"X-API-Key": key})


def read_until(ask: Callable[[], Any], requests: int) -> Any:
    """Return the usage once it has so many requests, which come to the database a moment after their answers."""
    seen: list[Any] = []
    wait_until(lambda: seen.append(ask()) or sum(one["requests"] for one in seen[-1]["keys"]) == requests)
    return seen[-1]


@pytest.fixture(autouse=True)
def _count_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "SYNC_S", 0.01)


def test_a_budget_ends_with_429_and_the_usage_shows_what_it_was(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path).release()
    budgeted, entry = site.store.create("user", "shop", tokens_per_month=40, tokens_per_minute=0, requests_per_minute=0)
    other, _ = site.store.create("user", "garage", requests_per_minute=0, tokens_per_minute=0)
    with site.live() as url:
        used, answered, sent = 0, 0, []
        hooks = {"request": [lambda request: sent.append(request.url.path)]}
        with (
            httpx.Client(event_hooks=hooks) as http,
            openai.OpenAI(base_url=f"{url}/v1", api_key=budgeted, http_client=http) as client,
            pytest.raises(openai.RateLimitError) as refused,
        ):
            while used < 1000:
                answer = client.chat.completions.create(model="support-bot", messages=HELLO)
                answered, used = answered + 1, used + (answer.usage.total_tokens if answer.usage else 0)
        assert answered > 1 and 40 <= used < 40 + used / answered
        assert len(sent) == answered + 1  # the client does not try again
        error, end = refused.value, find_month_end(MONTH)
        assert error.code == "monthly_budget_used" and error.type == "rate_limit_error"
        assert all(word in str(error) for word in ("40 tokens", f"used {used}", f"{end:%Y-%m-%d}"))
        wait = timedelta(seconds=int(error.response.headers["retry-after"]))
        assert abs(datetime.now(UTC) + wait - end) < timedelta(minutes=10)
        for path, body in ROUTES.items():
            problem = httpx.post(f"{url}{path}", json=body, headers={"X-API-Key": budgeted})
            assert problem.status_code == 429 and "monthly_budget_used" in problem.text
        with openai.OpenAI(base_url=f"{url}/v1", api_key=other) as client:
            assert client.chat.completions.create(model="support-bot", messages=HELLO).choices
        own = read_until(lambda: httpx.get(f"{url}/usage", headers={"X-API-Key": budgeted}).json(), answered)
    tokens = ("requests", "input_tokens", "output_tokens")
    (key,), (day,) = own["keys"], own["days"]
    assert (own["month"], own["until"]) == (MONTH, end.isoformat())
    assert (key["key"], key["owner"], key["tokens_per_month"], key["requests"]) == (entry.prefix, "shop", 40, answered)
    assert key["input_tokens"] + key["output_tokens"] == used and day["model"] == "support-bot:v1"
    assert [key[name] for name in tokens] == [day[name] for name in tokens]
    found = [e for e in site.events(AUDIT) if e.get("event.reason") == "limited"]
    assert {e["llmops.key.prefix"] for e in found} == {entry.prefix}


def test_a_user_sees_the_own_key_and_who_sees_the_dashboard_sees_all(site: Any, client: TestClient) -> None:
    for role in site.keys:
        assert site.ask(client, role).status_code == 200
    read_until(lambda: read(client, site.keys["admin"]).json(), len(site.keys))
    keys = {role: {one["owner"] for one in read(client, key).json()["keys"]} for role, key in site.keys.items()}
    assert keys == {"user": {"user"}, "developer": set(site.keys), "admin": set(site.keys)}
    answer = read(client, site.keys["admin"], month=MONTH, format="csv")
    assert answer.headers["content-type"].startswith("text/csv") and f"usage-{MONTH}.csv" in str(answer.headers)
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {row["owner"]: row["requests"] for row in rows} == dict.fromkeys(site.keys, "1")
    shown = client.get("/dashboard/data", headers=site.headers("developer")).json()["usage"]
    assert shown["month"] == MONTH and {one["owner"] for one in shown["keys"]} == set(site.keys)
    assert read(client, site.keys["admin"], month="2020-02").json()["keys"] == []


def test_usage_has_limits_and_leaves_the_database_to_the_task(
    new_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site(tmp_path)
    limited, _ = site.store.create("user", "shop", tokens_per_month=1, requests_per_minute=2)
    monkeypatch.setattr(budgets, "SYNC_S", 3600)
    with site.client() as client, monkeypatch.context() as patch:
        patch.setattr(budgets.Budgets, "synchronize", synchronize := AsyncMock())
        answers = [read(client, limited) for _ in range(3)]
    synchronize.assert_not_called()
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[1].headers["x-ratelimit-remaining-requests"] == "0" and answers[2].headers["Retry-After"]


def test_parallel_requests_use_no_more_than_the_budget(new_site: Any, tmp_path: Path) -> None:
    """While one of them runs that may use up the rest, the others are refused."""
    site = new_site(tmp_path).release()
    budgeted, _ = site.store.create("user", "shop", tokens_per_month=100, tokens_per_minute=0, requests_per_minute=0)
    with site.client() as client, ThreadPoolExecutor() as pool:
        site.ready(client)
        site.engines["v1"].may_step.clear()
        headers = {"X-API-Key": budgeted}
        first = pool.submit(client.post, "/generate", json={"prompt": "one two three"}, headers=headers)
        wait_until(lambda: site.engines["v1"].get_stats().running)
        refused = [client.post(path, json=body, headers=headers) for path, body in ROUTES.items()]
        site.go()
        assert first.result().status_code == 200
        assert [answer.status_code for answer in refused] == [429] * len(ROUTES)
        assert refused[0].json()["code"] == "limited" and "x-should-retry" not in refused[0].headers
        assert client.post("/generate", json={"prompt": "one two three"}, headers=headers).status_code == 200


def test_a_wrong_month_is_refused_with_the_way_to_write_it(site: Any, client: TestClient) -> None:
    for month in ("", "2026-13", "2026-1", "January", "2026-01-01", "x" * 2000, "\0", "2026-01' OR 1=1"):
        answer = read(client, site.keys["user"], month=month)
        assert (answer.status_code, answer.json()["code"]) == (400, "month_refused"), month
        assert "2026-01" in answer.json()["detail"] and len(answer.text) < 300
    assert read(client, site.keys["user"], format="xml").status_code == 422
    operation = client.get("/openapi.json").json()["paths"]["/usage"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/csv"}
    assert {"400", "401", "429"} <= set(operation["responses"])
