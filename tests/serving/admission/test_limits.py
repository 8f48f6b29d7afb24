"""Requests and tokens per minute: exact, never more than one answer too many, in memory and in a real Redis."""

import asyncio
import logging
import math
import random
import socket
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi.testclient import TestClient

from llmops.access.roles import Key
from llmops.config import Config, Serving
from llmops.events.datasets import AUDIT, SERVING
from llmops.frame.errors import ConfigError
from llmops.prompts import encode_chat, encode_question
from serving.admission import windows as module
from serving.admission.limits import Limiter, RequestAllowance, compute_token_bound
from serving.admission.windows import RETRY_S, KeyLimits, LocalWindows, RedisWindows, SharedWindows, Windows
from serving.app import create_app
from serving.engines.base import Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.errors import ClientLeft, LimitExceeded
from tests.clock import FakeClock
from tests.serving.test_request_events import ROUTES

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def windows(clock: FakeClock) -> LocalWindows:
    """Windows in memory; Redis agrees with them, see `test_memory_and_redis_agree_on_random_histories`."""
    return LocalWindows(clock.monotonic)


def open_admin_client(server: tuple[str, str], database: int = 0) -> Any:
    import redis as client

    host, port = server[0].split(":")
    return client.Redis(host, int(port), database, server[1])


def empty_server(server: tuple[str, str]) -> tuple[str, dict[str, str]]:
    """An emptied server's URL for the configuration, and the environment with its password."""
    open_admin_client(server).flushall()
    return f"redis://:${{PASSWORD}}@{server[0]}/1", {"PASSWORD": server[1]}


def make_key(requests: int | None = None, tokens: int | None = None) -> Key:
    return Key("ab12cd34", "user", "x", "", "", requests_per_minute=requests, tokens_per_minute=tokens)


# --- windows


async def test_so_many_requests_in_any_60_seconds_and_the_wait_is_exact(
    windows: LocalWindows, clock: FakeClock
) -> None:
    limits = KeyLimits(3, 0)
    for n in range(3):
        use = await windows.take("k", f"r{n}", 0, limits)
        assert use.taken and use.requests == n + 1
        clock.advance(10)
    for n in range(3, 9):  # one that is refused takes no place
        refused = await windows.take("k", f"r{n}", 0, limits)
        assert (refused.taken, refused.requests, refused.wait_s, refused.reset_s) == (False, 3, 30, 50)
    assert (await windows.take("another", "r3", 0, limits)).requests == 1
    clock.advance(refused.wait_s - 0.125)
    assert not (await windows.take("k", "r3", 0, limits)).taken
    clock.advance(0.125)
    assert (await windows.take("k", "r3", 0, limits)).taken
    assert not (await windows.take("k", "r4", 0, limits)).taken


async def test_tokens_wait_for_as_many_of_the_oldest_as_are_needed(windows: LocalWindows, clock: FakeClock) -> None:
    limits = KeyLimits(0, 100)
    for n, tokens in enumerate((50, 10, 40)):
        assert (await windows.take("k", f"r{n}", tokens, limits)).taken
        clock.advance(10)
    assert [(await windows.take("k", "a", tokens, limits)).wait_s for tokens in (50, 51, 100)] == [30, 40, 50]
    clock.advance(30)
    assert (await windows.take("k", "a", 50, limits)).tokens == 100


async def test_changing_a_request_is_not_another_one_and_keeps_its_moment(
    windows: LocalWindows, clock: FakeClock
) -> None:
    limits = KeyLimits(2, 100)
    await windows.take("k", "r0", 0, limits)
    clock.advance(20)
    use = await windows.take("k", "r0", 90, limits)
    assert (use.taken, use.requests, use.tokens) == (True, 1, 90)
    await windows.settle("k", "r0", 30)
    assert (await windows.take("k", "r1", 70, limits)).taken
    clock.advance(40)
    assert (await windows.take("k", "r2", 0, limits)).tokens == 70
    await windows.settle("k", "r0", 5000)  # it has left the window
    await windows.settle("nobody", "r0", 5000)
    refused = await windows.take("k", "r2", 31, limits)
    assert (refused.taken, refused.requests, refused.tokens) == (False, 1, 70)  # it gives back its place
    assert (await windows.take("k", "r3", 30, limits)).requests == 2


async def test_memory_and_redis_agree_on_random_histories(redis: tuple[str, str], clock: FakeClock) -> None:
    own, shared = LocalWindows(clock.monotonic), RedisWindows(*empty_server(redis), clock.monotonic)
    chance = random.Random(0)
    for n in range(400):
        clock.advance(chance.choice([0, 0.5, 3, 25]))
        limits = KeyLimits(chance.choice([0, 5]), chance.choice([0, 200]))
        who, request, tokens = chance.choice("kkkl"), f"r{n - chance.choice([0, 0, 1, 2])}", chance.randrange(200)
        if chance.random() < 0.3:
            await own.settle(who, request, 2 * tokens)
            await shared.settle(who, request, 2 * tokens)
        else:
            tokens = min(tokens, limits.tokens) if limits.tokens else tokens
            one, other = [await each.take(who, request, tokens, limits) for each in (own, shared)]
            assert (one.taken, one.requests, one.tokens) == (other.taken, other.requests, other.tokens), n
            assert (one.wait_s, one.reset_s) == pytest.approx((other.wait_s, other.reset_s), abs=1e-5), n
    await shared.close()


async def test_many_at_once_from_two_replicas_get_in_exactly_as_often_as_allowed(redis: tuple[str, str]) -> None:
    url, environ = empty_server(redis)
    replicas = [RedisWindows(url, environ) for _ in range(2)]  # by the server's clock
    taking = (replicas[n % 2].take("k", f"r{n}", 10, KeyLimits(0, 250)) for n in range(100))
    uses = await asyncio.gather(*taking)
    assert sum(use.taken for use in uses) == 25
    assert all(0 < use.wait_s <= 60 for use in uses if not use.taken)
    for replica in replicas:
        await replica.close()
    server = open_admin_client(redis, 1)  # which forgets keys that are not used
    names = list(server.scan_iter())
    assert names and all(0 < server.pttl(name) <= 61_000 for name in names)


# --- allowances


def make_allowance(limiter: Limiter, who: Key, request: str = "r0") -> tuple[RequestAllowance, dict[str, Any]]:
    event: dict[str, Any] = {}
    return RequestAllowance(limiter, None, who, request, event), event


def make_limiter(windows: Windows | None = None, **config: int) -> Limiter:
    return Limiter(Serving(**config), lambda reason: None, windows=windows)  # type: ignore[arg-type]


def make_request(content: str, tokens: int) -> EngineRequest:
    return EngineRequest(Text(content), tokens)


def test_there_are_limits_unless_they_are_lifted_and_a_keys_own_come_first() -> None:
    assert make_limiter().get_limits(make_key()) == KeyLimits(60, 20_000)
    assert Config().serving.limits == ""
    limiter = make_limiter(requests_per_minute=5, tokens_per_minute=50)
    assert limiter.get_limits(make_key()) == KeyLimits(5, 50)
    assert limiter.get_limits(make_key(7, 0)) == KeyLimits(7, 0)


async def test_one_that_may_use_more_than_the_whole_limit_gets_in_alone(
    windows: LocalWindows, clock: FakeClock
) -> None:
    limiter = make_limiter(windows)
    big, event = make_allowance(limiter, make_key(0, 50), "big")
    await big.enter()
    await big.reserve([make_request("x", 500)])
    other, _ = make_allowance(limiter, make_key(0, 50), "other")
    with pytest.raises(LimitExceeded):
        await other.reserve([make_request("", 1)])
    event.update({"gen_ai.usage.output_tokens": 400, "gen_ai.response.finish_reasons": ["stop"]})
    big.settle()
    await asyncio.sleep(0)
    assert big.make_headers()["x-ratelimit-remaining-tokens"] == "0"
    small, _ = make_allowance(limiter, make_key(0, 50), "small")
    with pytest.raises(LimitExceeded) as refused:
        await small.enter()  # even a request without tokens waits
    assert refused.value.retry_after_s == 60
    clock.advance(60)
    await small.enter()


@pytest.mark.parametrize(
    ("error", "used", "answers", "left"),
    [
        (None, 30, 1, 970),  # the answer's tokens
        (None, 0, 1, 700),  # nobody knows: as reserved
        (ClientLeft(""), 0, 1, 700),
        (ClientLeft(""), 12, 1, 988),
        (ClientLeft(""), 12, 2, 400),  # nobody knows those of the second answer, which is computed, too
        (None, 12, 2, 400),
        (None, 12, 0, 988),
        (RuntimeError(""), 0, 1, 1000),
        (RuntimeError(""), 12, 2, 988),
    ],
)
async def test_what_stays_in_the_window_afterwards(error: Exception | None, used: int, answers: int, left: int) -> None:
    limiter = make_limiter()
    one, event = make_allowance(limiter, make_key(0, 1000))
    await one.enter()
    answer, embedding = (EngineRequest(TokenIds((1,) * 100), tokens) for tokens in (200, 0))
    await one.reserve([answer] * answers or [embedding] * 2)
    if used:
        event.update(
            {"gen_ai.usage.output_tokens": used, "gen_ai.response.finish_reasons": ["stop"] if answers else []}
        )
    one.settle(error)
    await asyncio.sleep(0)
    assert 1000 - (await limiter.take(make_key(0, 1000), "r1", 0)).tokens == left


@pytest.mark.parametrize("content", ["the quick brown fox", "ääääää", "日本語のテキスト🙂🙃", "\x00\x01 \t\n((((((]]"])
def test_no_prompt_has_more_tokens_than_are_reserved_for_it(tokenizer: Any, content: str) -> None:
    content = content * 5
    assert len(tokenizer(content)["input_ids"]) <= compute_token_bound(make_request(content, 0))
    assert len(encode_question(tokenizer, content, content)) <= compute_token_bound(
        EngineRequest(Question(content, content), 0)
    )
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}] * 3
    chat = Chat(tuple(Message(turn["role"], turn["content"]) for turn in turns))  # type: ignore[arg-type]
    assert len(encode_chat(tokenizer, turns)) <= compute_token_bound(EngineRequest(chat, 0))
    grounded = Chat((*chat.messages[:-1], replace(chat.messages[-1], context="x" * 9)))
    assert compute_token_bound(EngineRequest(grounded, 0)) == compute_token_bound(EngineRequest(chat, 0)) + 9


# --- Redis away


async def test_a_redis_that_hangs_costs_one_request_a_wait_then_each_process_counts_and_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert 2 * module.TIMEOUT_S <= 1  # it is asked twice
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    reports = list[str]()
    with socket.socket() as silent, caplog.at_level(logging.WARNING, module.__name__):
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        redis = RedisWindows(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        asking = AsyncMock(side_effect=redis.take)
        monkeypatch.setattr(redis, "take", asking)
        shared = SharedWindows(redis, reports.append, clock.monotonic)
        uses = [await shared.take("k", f"r{n}", 0, KeyLimits(3, 0)) for n in range(5)]
        assert [use.taken for use in uses] == [True] * 3 + [False] * 2  # neither all nor nothing
        await shared.settle("k", "r0", 10)
        assert asking.await_count == 1
        clock.advance(RETRY_S)
        await shared.take("k", "r5", 0, KeyLimits(3, 0))
        assert asking.await_count == 2 and len(reports) == 1 and "Timeout" in reports[0]
        assert [record.name for record in caplog.records].count(module.__name__) == 1
        asking.side_effect = LocalWindows(clock.monotonic).take  # it answers again
        clock.advance(RETRY_S)
        assert (await shared.take("k", "r6", 0, KeyLimits(3, 0))).requests == 1
        assert reports[1:] == [""]
        await shared.close()


def test_a_password_is_read_from_the_environment_and_refused_in_the_url() -> None:
    with pytest.raises(ConfigError, match="PASSWORD"):
        RedisWindows("redis://:${PASSWORD}@host", {})
    for wrong in ("redis://:hunter2@host", "http://host", "localhost:6379", "redis:"):
        with pytest.raises(ValueError, match="limits"):
            Serving(limits=wrong)
    assert Serving(limits="redis://:${PASSWORD}@host/1").limits


# --- through the app


def create_key(site: Any, requests: int, tokens: int) -> tuple[dict[str, str], str]:
    """The headers of a new key with these limits, and its prefix."""
    presented, kept = site.store.create("user", "x", requests_per_minute=requests, tokens_per_minute=tokens)
    return {"X-API-Key": presented}, kept.prefix


def read_events(site: Any, prefix: str, dataset: str = SERVING) -> list[dict[str, Any]]:
    return [event for event in site.events(dataset) if event.get("llmops.key.prefix") == prefix]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_to_a_model_is_limited_and_tells(running: tuple[Any, TestClient], path: str, stream: bool) -> None:
    site, client = running
    headers, prefix = create_key(site, 2, 500)
    answers = [client.post(path, json={**ROUTES[path], "stream": stream}, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    for n, answer in enumerate(answers):
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(max(1 - n, 0))
        assert 0 < float(answer.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        assert answer.headers["x-ratelimit-limit-tokens"] == "500"
    usage = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
    used = [sum(e[name] for name in usage) for e in read_events(site, prefix)]
    first, second, third = (500 - int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers)
    assert third == sum(used)
    if stream:  # headers leave before anybody knows how long the answer is
        assert first > 80 and second == first + used[0]
    else:
        assert (first, second) == (used[0], sum(used))
    wait_ms = int(answers[2].headers["retry-after-ms"])
    assert int(answers[2].headers["retry-after"]) == math.ceil(wait_ms / 1000)
    assert 0 < wait_ms <= 60_000
    problem = answers[2].json()
    assert problem["error"]["code"] == "rate_limit_exceeded" if path != "/generate" else problem["code"] == "limited"
    site.until(lambda: read_events(site, prefix, AUDIT))
    assert [(e["event.reason"], e["llmops.audit.count"]) for e in read_events(site, prefix, AUDIT)] == [("limited", 1)]


def test_several_prompts_are_reserved_for_together(running: tuple[Any, TestClient]) -> None:
    site, client = running
    body = {"model": "support-bot", "prompt": ["one", "two"], "max_tokens": 5}
    answer = client.post("/v1/completions", json=body, headers=create_key(site, 0, 300)[0])
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(300 - answer.json()["usage"]["total_tokens"])


def test_feedback_and_requests_that_are_refused_for_what_they_say_count_too(running: tuple[Any, TestClient]) -> None:
    """Each of them becomes an event, and nobody may fill the disk."""
    site, client = running
    headers, prefix = create_key(site, 3, 0)
    codes = [client.post("/generate", json={"prompt": ""}, headers=headers).status_code for _ in range(5)]
    assert codes == [422, 422, 422, 429, 429]
    assert len(read_events(site, prefix)) == 3
    headers, _ = create_key(site, 1, 0)
    id = client.post("/generate", json=ROUTES["/generate"], headers=headers).json()["id"]
    assert client.post("/feedback", json={"id": id, "rating": "up"}, headers=headers).status_code == 429
    for _ in range(3):  # a route that keeps nothing
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_replicas_share_a_limit_and_outlive_their_redis(new_site: Any, tmp_path: Any, start_redis: Any) -> None:
    with start_redis(tmp_path) as server:
        url = f"redis://:${{PASSWORD}}@{server[0]}/1"
        site = new_site(tmp_path, requests_per_minute=4, limits=url).release()
        replicas = [create_app(site.config, site.engine, environ={"PASSWORD": server[1]}) for _ in range(2)]
        with TestClient(replicas[0]) as one, TestClient(replicas[1]) as two:
            for client in (one, two):
                site.ready(client)
            codes = [site.ask(client).status_code for client in (one, two, one, two, one, two)]
            assert codes == [200, 200, 200, 200, 429, 429]
            open_admin_client(server).shutdown(nosave=True)
            codes = [site.ask(one).status_code for _ in range(6)]
            assert codes == [200] * 4 + [429] * 2
    lost = [e for e in site.events(AUDIT) if e["event.action"] == "limits_store"]
    assert len(lost) == 1 and lost[0]["event.outcome"] == "failure"
    assert server[1] not in str(lost)
