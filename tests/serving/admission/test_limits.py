"""Requests and tokens per minute: exact, never more than one answer too many, in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmops.access.roles import Key
from llmops.config import Config, Serving
from llmops.errors import ConfigError
from llmops.monitoring.datasets import AUDIT
from llmops.prompts import chat_ids, prompt_ids
from serving.admission.limits import Limiter, RequestAllowance, most_tokens
from serving.admission.windows import AGAIN_S, KeyLimits, OwnWindows, RedisWindows, SharedWindows, Windows, WindowUse
from serving.app import create_app
from serving.engines.base import Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.echo import EchoEngine
from serving.errors import ClientLeft, Limited

Run = Callable[[Any], Any]


class Clock:
    def __init__(self) -> None:
        self.now = 1_764_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run() -> Iterator[Run]:
    """One event loop for a whole test: a connection to Redis belongs to its loop."""
    with asyncio.Runner() as runner:
        yield runner.run


def admin(server: tuple[str, str], database: int = 0) -> Any:
    import redis as client

    host, port = server[0].split(":")
    return client.Redis(host, int(port), database, server[1])


def empty(server: tuple[str, str]) -> tuple[str, dict[str, str]]:
    """An emptied server's URL for the configuration, and the environment with its password."""
    admin(server).flushall()
    return f"redis://:${{PASSWORD}}@{server[0]}/1", {"PASSWORD": server[1]}


@pytest.fixture(params=["own", "redis"])
def windows(request: pytest.FixtureRequest, clock: Clock, run: Run) -> Iterator[Windows]:
    made: Windows = OwnWindows(clock)
    if request.param == "redis":
        made = RedisWindows(*empty(request.getfixturevalue("redis")), clock)
    yield made
    run(made.close())


def key(requests: int | None = None, tokens: int | None = None) -> Key:
    return Key("ab12cd34", "user", "x", "", "", requests_per_minute=requests, tokens_per_minute=tokens)


# --- windows


def test_so_many_requests_in_any_60_seconds_and_the_wait_is_exact(windows: Windows, clock: Clock, run: Run) -> None:
    limits = KeyLimits(3, 0)
    for n in range(3):
        use = run(windows.take("k", f"r{n}", 0, limits))
        assert use.taken and use.requests == n + 1
        clock.now += 10
    refused = run(windows.take("k", "r3", 0, limits))
    assert not refused.taken and refused.requests == 3
    assert refused.wait_s == pytest.approx(30, abs=1e-5) and refused.reset_s == pytest.approx(50, abs=1e-5)
    clock.now += refused.wait_s - 0.001
    assert not run(windows.take("k", "r3", 0, limits)).taken
    clock.now += 0.001
    assert run(windows.take("k", "r3", 0, limits)).taken
    assert not run(windows.take("k", "r4", 0, limits)).taken


def test_a_refused_request_takes_no_place(windows: Windows, run: Run) -> None:
    run(windows.take("k", "r0", 0, KeyLimits(1, 0)))
    waits = [run(windows.take("k", f"r{n}", 0, KeyLimits(1, 0))).wait_s for n in range(1, 50)]
    assert waits == pytest.approx([60.0] * 49)


def test_tokens_wait_for_as_many_of_the_oldest_as_are_needed(windows: Windows, clock: Clock, run: Run) -> None:
    limits = KeyLimits(0, 100)
    for n, tokens in enumerate((50, 10, 40)):
        assert run(windows.take("k", f"r{n}", tokens, limits)).taken
        clock.now += 10
    assert run(windows.take("k", "a", 50, limits)).wait_s == pytest.approx(30, abs=1e-5)
    assert run(windows.take("k", "a", 51, limits)).wait_s == pytest.approx(40, abs=1e-5)
    assert run(windows.take("k", "a", 100, limits)).wait_s == pytest.approx(50, abs=1e-5)
    clock.now += 30
    assert run(windows.take("k", "a", 50, limits)).tokens == 100


def test_changing_a_request_is_not_another_one_and_keeps_its_moment(windows: Windows, clock: Clock, run: Run) -> None:
    limits = KeyLimits(2, 100)
    run(windows.take("k", "r0", 0, limits))
    clock.now += 20
    use = run(windows.take("k", "r0", 90, limits))
    assert (use.taken, use.requests, use.tokens) == (True, 1, 90)
    run(windows.settle("k", "r0", 30))
    assert run(windows.take("k", "r1", 70, limits)).taken
    clock.now += 40.001
    assert run(windows.take("k", "r2", 0, limits)).tokens == 70


def test_one_that_is_refused_its_tokens_gives_back_its_place(windows: Windows, run: Run) -> None:
    limits = KeyLimits(2, 100)
    run(windows.take("k", "r0", 80, limits))
    run(windows.take("k", "r1", 0, limits))
    refused = run(windows.take("k", "r1", 21, limits))
    assert (refused.taken, refused.requests, refused.tokens) == (False, 1, 80)
    assert run(windows.take("k", "r2", 20, limits)).requests == 2


def test_settling_what_has_left_the_window_changes_nothing(windows: Windows, clock: Clock, run: Run) -> None:
    run(windows.take("k", "r0", 100, KeyLimits(0, 100)))
    clock.now += 60
    assert run(windows.take("k", "r1", 1, KeyLimits(0, 100))).tokens == 1
    run(windows.settle("k", "r0", 5000))
    run(windows.settle("nobody", "r0", 5000))
    assert run(windows.take("k", "r2", 1, KeyLimits(0, 100))).tokens == 2


def test_keys_do_not_share_a_window(windows: Windows, run: Run) -> None:
    assert run(windows.take("a", "r0", 0, KeyLimits(1, 0))).taken
    assert run(windows.take("b", "r1", 0, KeyLimits(1, 0))).taken


def test_memory_and_redis_agree_on_random_histories(redis: tuple[str, str], clock: Clock, run: Run) -> None:
    own, shared = OwnWindows(clock), RedisWindows(*empty(redis), clock)
    chance = random.Random(0)
    for n in range(400):
        clock.now += chance.choice([0, 0.5, 3, 25])
        limits, request = (
            KeyLimits(chance.choice([0, 5]), chance.choice([0, 200])),
            f"r{n - chance.choice([0, 0, 1, 2])}",
        )
        tokens = chance.randrange(200)
        if chance.random() < 0.3:
            run(own.settle("k", request, 2 * tokens))
            run(shared.settle("k", request, 2 * tokens))
        else:
            tokens = min(tokens, limits.tokens) if limits.tokens else tokens
            one, other = run(own.take("k", request, tokens, limits)), run(shared.take("k", request, tokens, limits))
            assert (one.taken, one.requests, one.tokens) == (other.taken, other.requests, other.tokens), n
            assert (one.wait_s, one.reset_s) == pytest.approx((other.wait_s, other.reset_s), abs=1e-5), n
    run(shared.close())


def test_many_at_once_from_two_replicas_get_in_exactly_as_often_as_allowed(redis: tuple[str, str], run: Run) -> None:
    url, environ = empty(redis)
    replicas = [RedisWindows(url, environ) for _ in range(2)]  # by the server's clock

    async def rush() -> list[WindowUse]:
        return await asyncio.gather(*(replicas[n % 2].take("k", f"r{n}", 10, KeyLimits(0, 250)) for n in range(100)))

    uses = run(rush())
    assert sum(use.taken for use in uses) == 25
    assert all(0 < use.wait_s <= 60 for use in uses if not use.taken)
    for replica in replicas:
        run(replica.close())


def test_redis_forgets_keys_that_are_not_used(redis: tuple[str, str], run: Run) -> None:
    shared = RedisWindows(*empty(redis))
    run(shared.take("k", "r0", 5, KeyLimits(1, 10)))
    run(shared.take("k", "r1", 5, KeyLimits(1, 10)))
    run(shared.close())
    server = admin(redis, 1)
    names = list(server.scan_iter())
    assert names and all(60_000 < server.pttl(name) <= 61_000 for name in names)


# --- allowances


def allowance(limiter: Limiter, who: Key, request: str = "r0") -> tuple[RequestAllowance, dict[str, Any]]:
    event: dict[str, Any] = {}
    return RequestAllowance(limiter, who, request, event), event


def limiter_of(windows: Windows | None = None, **config: int) -> Limiter:
    return Limiter(Serving(**config), lambda reason: None, windows=windows)  # type: ignore[arg-type]


def text(content: str, tokens: int) -> EngineRequest:
    return EngineRequest(Text(content), tokens)


def test_the_keys_own_limits_come_before_the_configured_ones() -> None:
    limiter = limiter_of(requests_per_minute=5, tokens_per_minute=50)
    assert limiter.of(key()) == KeyLimits(5, 50)
    assert limiter.of(key(7, 0)) == KeyLimits(7, 0)


def test_there_are_limits_unless_they_are_lifted() -> None:
    assert limiter_of().of(key()) == KeyLimits(60, 20_000)
    assert Config().serving.limits == ""


def test_at_the_same_time_no_more_is_let_in_than_the_tokens_allow(run: Run) -> None:
    limiter = limiter_of()

    async def rush() -> int:
        let_in = 0
        for n in range(50):
            one, _ = allowance(limiter, key(0, 1000), f"r{n}")
            await one.enter()
            try:
                await one.reserve([text("x" * 36, 100)])  # 200 at the most
            except Limited:
                continue
            let_in += 1
        return let_in

    assert run(rush()) == 5


def test_one_that_may_use_more_than_the_whole_limit_gets_in_alone(run: Run, clock: Clock) -> None:
    limiter = limiter_of(OwnWindows(clock))

    async def go() -> None:
        big, event = allowance(limiter, key(0, 50), "big")
        await big.enter()
        await big.reserve([text("x", 500)])
        other, _ = allowance(limiter, key(0, 50), "other")
        with pytest.raises(Limited):
            await other.reserve([text("", 1)])
        event.update({"gen_ai.usage.output_tokens": 400, "gen_ai.response.finish_reasons": ["stop"]})
        big.settle()
        await asyncio.sleep(0)
        assert big.headers()["x-ratelimit-remaining-tokens"] == "0"
        small, _ = allowance(limiter, key(0, 50), "small")
        with pytest.raises(Limited) as refused:
            await small.enter()  # even a request without tokens waits
        assert refused.value.retry_after_s == 60
        clock.now += 60
        await small.enter()

    run(go())


@pytest.mark.parametrize(
    ("error", "used", "left"),
    [
        (None, 30, 970),  # the answer's tokens
        (None, 0, 700),  # nobody knows: as reserved
        (ClientLeft(""), 0, 700),
        (ClientLeft(""), 12, 988),
        (RuntimeError(""), 0, 1000),
        (RuntimeError(""), 12, 988),
    ],
)
def test_what_stays_in_the_window_afterwards(run: Run, error: Exception | None, used: int, left: int) -> None:
    limiter = limiter_of()

    async def go() -> int:
        one, event = allowance(limiter, key(0, 1000))
        await one.enter()
        await one.reserve([EngineRequest(TokenIds((1,) * 100), 200)])
        if used:
            event["gen_ai.usage.output_tokens"] = used
        one.settle(error)
        await asyncio.sleep(0)
        return 1000 - (await limiter.take(key(0, 1000), "r1", 0)).tokens

    assert run(go()) == left


def test_without_limits_nothing_is_kept_and_nothing_is_said(run: Run) -> None:
    windows = OwnWindows()
    one, _ = allowance(limiter_of(windows), key(0, 0))
    run(one.enter())
    run(one.reserve([text("x", 10)]))
    assert one.headers() == {} and not windows._logs


@pytest.mark.parametrize(
    "content", ["a", "the quick brown fox", "ääääää", "日本語のテキスト", "🙂🙃", "\x00\x01 \t\n", "((((((]]"]
)
def test_no_prompt_has_more_tokens_than_are_reserved_for_it(tokenizer: Any, content: str) -> None:
    content = content * 5
    assert len(tokenizer(content)["input_ids"]) <= most_tokens(text(content, 0))
    assert len(prompt_ids(tokenizer, content, content)) <= most_tokens(EngineRequest(Question(content, content), 0))
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}] * 3
    chat = Chat(tuple(Message(turn["role"], turn["content"]) for turn in turns))  # type: ignore[arg-type]
    assert len(chat_ids(tokenizer, turns)) <= most_tokens(EngineRequest(chat, 0))


# --- Redis away


class Store:
    """A shared store that fails while it is told to."""

    def __init__(self) -> None:
        self.away, self.asked = False, 0

    async def take(self, key: str, request: str, tokens: int, limits: KeyLimits) -> WindowUse:
        self.asked += 1
        if self.away:
            raise OSError("nobody there")
        return WindowUse(True, 1, tokens, 0.0, 60.0)

    async def settle(self, key: str, request: str, tokens: int) -> None:
        if self.away:
            raise OSError("nobody there")

    async def close(self) -> None: ...


def test_without_redis_each_process_counts_and_it_is_told_once(
    clock: Clock, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    store, told = Store(), list[str]()
    shared = SharedWindows(store, told.append, clock)
    store.away = True
    with caplog.at_level(logging.WARNING):
        uses = [run(shared.take("k", f"r{n}", 0, KeyLimits(3, 0))) for n in range(5)]
    assert [use.taken for use in uses] == [True] * 3 + [False] * 2  # neither all nor nothing
    assert store.asked == 1 and len(told) == 1 and "nobody there" in told[0]
    assert len(caplog.records) == 1
    run(shared.settle("k", "r0", 10))
    clock.now += AGAIN_S
    run(shared.take("k", "r5", 0, KeyLimits(3, 0)))
    assert store.asked == 2 and len(told) == 1
    store.away = False
    clock.now += AGAIN_S
    assert run(shared.take("k", "r6", 0, KeyLimits(3, 0))).requests == 1
    assert told[1:] == [""]


def test_a_redis_that_hangs_costs_one_request_a_second_and_the_next_ones_nothing(run: Run) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        shared = SharedWindows(RedisWindows(f"redis://127.0.0.1:{silent.getsockname()[1]}"), lambda reason: None)
        begun = time.monotonic()
        assert run(shared.take("k", "r0", 0, KeyLimits(1, 0))).taken
        waited = time.monotonic() - begun
        assert not run(shared.take("k", "r1", 0, KeyLimits(1, 0))).taken
        assert time.monotonic() - begun - waited < waited / 2
        run(shared.close())


def test_a_password_is_read_from_the_environment_and_refused_in_the_url(redis: tuple[str, str], run: Run) -> None:
    with pytest.raises(ConfigError, match="PASSWORD"):
        RedisWindows("redis://:${PASSWORD}@host", {})
    for wrong in ("redis://:hunter2@host", "http://host", "localhost:6379", "redis:"):
        with pytest.raises(ValueError, match="limits"):
            Serving(limits=wrong)
    url, environ = empty(redis)
    shared = RedisWindows(Serving(limits=url).limits, environ)
    assert run(shared.take("k", "r0", 1, KeyLimits(1, 1))).taken
    run(shared.close())


# --- through the app

BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "one two three"},
    "/v1/chat/completions": {"model": "support-bot", "messages": [{"role": "user", "content": "one two three"}]},
    "/v1/completions": {"model": "support-bot", "prompt": "one two three"},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_every_route_that_asks_a_model_is_limited_and_says_what_is_left(
    new_site: Any, tmp_path: Path, path: str, stream: bool
) -> None:
    site = new_site(tmp_path, requests_per_minute=2, tokens_per_minute=500).release()
    with site.client() as client:
        site.ready(client)
        body = {**BODIES[path], "stream": stream}
        answers = [client.post(path, json=body, headers=site.headers()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    for n, answer in enumerate(answers):
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(max(1 - n, 0))
        assert 0 < float(answer.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        assert answer.headers["x-ratelimit-limit-tokens"] == "500"
    used = [e["gen_ai.usage.input_tokens"] + e["gen_ai.usage.output_tokens"] for e in site.events()]
    first, second, third = (500 - int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers)
    assert third == sum(used)
    if stream:  # headers leave before anybody knows how long the answer is
        assert first > 80 and second == first + used[0]
    else:
        assert (first, second) == (used[0], sum(used))
    wait_ms = int(answers[2].headers["retry-after-ms"])
    assert int(answers[2].headers["retry-after"]) == math.ceil(wait_ms / 1000)
    assert 50_000 < wait_ms <= 60_000
    problem = answers[2].json()
    assert problem["error"]["code"] == "rate_limit_exceeded" if path != "/generate" else problem["code"] == "limited"
    audit = [e for e in site.events(AUDIT) if e["event.action"] == "access"]
    assert [(e["event.reason"], e["llmops.audit.count"]) for e in audit] == [("limited", 1)]


def test_several_prompts_are_reserved_for_together(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path, tokens_per_minute=300).release()
    with site.client() as client:
        site.ready(client)
        body = {"model": "support-bot", "prompt": ["one", "two"], "max_tokens": 5}
        answer = client.post("/v1/completions", json=body, headers=site.headers())
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(300 - answer.json()["usage"]["total_tokens"])


def test_concurrent_requests_cannot_overshoot(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path, tokens_per_minute=600, max_queue=100).release()
    with site.client(lambda version: EchoEngine(100, 4)) as client:
        site.ready(client)
        answers = list[Any]()
        threads = [threading.Thread(target=lambda: answers.append(site.ask(client))) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert sum(e["gen_ai.usage.input_tokens"] + e["gen_ai.usage.output_tokens"] for e in site.events()) <= 600


def test_requests_that_are_refused_for_what_they_say_count_too(new_site: Any, tmp_path: Path) -> None:
    """Each of them becomes an event, and nobody may fill the disk."""
    site = new_site(tmp_path, requests_per_minute=3).release()
    with site.client() as client:
        site.ready(client)
        codes = [site.ask(client, prompt="").status_code for _ in range(5)]
    assert codes == [422, 422, 422, 429, 429]
    assert len(site.events()) == 3


def test_feedback_counts_and_routes_that_keep_nothing_do_not(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path, requests_per_minute=1).release()
    with site.client() as client:
        site.ready(client)
        said = site.ask(client).json()["id"]
        answer = client.post("/feedback", json={"id": said, "rating": "up"}, headers=site.headers())
        assert answer.status_code == 429
        for _ in range(3):
            assert client.get("/v1/models", headers=site.headers()).status_code == 200


def test_replicas_share_a_limit_and_outlive_their_redis(new_site: Any, tmp_path: Path, start_redis: Any) -> None:
    with start_redis(tmp_path) as server:
        url = f"redis://:${{PASSWORD}}@{server[0]}/1"
        site = new_site(tmp_path, requests_per_minute=4, limits=url).release()
        replicas = [create_app(site.config, site.engine, environ={"PASSWORD": server[1]}) for _ in range(2)]
        with TestClient(replicas[0]) as one, TestClient(replicas[1]) as two:
            for client in (one, two):
                site.ready(client)
            codes = [site.ask(client).status_code for client in (one, two, one, two, one, two)]
            assert codes == [200, 200, 200, 200, 429, 429]
            admin(server).shutdown(nosave=True)
            codes = [site.ask(one).status_code for _ in range(6)]
            assert codes == [200] * 4 + [429] * 2
    lost = [e for e in site.events(AUDIT) if e["event.action"] == "limits_store"]
    assert len(lost) == 1 and lost[0]["event.outcome"] == "failure"
    assert server[1] not in str(lost)
