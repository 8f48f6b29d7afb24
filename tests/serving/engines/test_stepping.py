"""Queue, joining, leaving, cancelling, closing and dying, on the echo engine; and stop strings in pieces of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.engines.base import Answer, Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.echo import EchoEngine, EchoRow
from serving.engines.stops import Stops
from serving.errors import EngineDied, PromptRefused, QueueFull

pytestmark = pytest.mark.anyio


def request(text: str, tokens: int = 99, **wants: Any) -> EngineRequest:
    return EngineRequest(Text(text), tokens, **wants)


@asynccontextmanager
async def running(engine: EchoEngine) -> AsyncIterator[None]:
    """An engine that is loaded, until the block ends."""
    await asyncio.to_thread(engine.load)
    try:
        async with asyncio.timeout(50):
            yield
    finally:
        engine.going.set()
        await asyncio.to_thread(engine.close)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_words_come_one_by_one_and_add_up_to_the_answer() -> None:
    engine = EchoEngine()
    async with running(engine):
        chunks = [chunk async for chunk in engine.generate(request("a b c d", 3))]
        assert [chunk.text for chunk in chunks] == ["a", " b", " c"]
        assert [chunk.output_tokens for chunk in chunks] == [1, 2, 3]
        assert [chunk.finish_reason for chunk in chunks] == [None, None, "length"]
        assert {chunk.input_tokens for chunk in chunks} == {4}
        assert await engine.generate(request("a b", 2)).whole() == Answer("a b", 2, 2, "stop")
        assert (await engine.generate(request("", 2)).whole()).text == ""
        stopped = await engine.generate(request("one two three four", stop=("o th",))).whole()
        assert (stopped.text, stopped.finish_reason) == ("one tw", "stop")


async def test_every_kind_of_prompt_is_answered() -> None:
    engine = EchoEngine()
    async with running(engine):
        for prompt in (Question("a b"), Text("a b"), Chat((Message("system", "x"), Message("user", "a b")))):
            assert (await engine.generate(EngineRequest(prompt, 9)).whole()).text == "a b"
        assert (await engine.generate(EngineRequest(TokenIds((7, 8)), 9)).whole()).text == "7 8"


async def test_a_short_request_that_joins_later_leaves_earlier() -> None:
    engine = EchoEngine(max_batch=2, token_s=0.002)
    async with running(engine):
        long = engine.generate(request("w " * 500, 500))
        await until(lambda: engine.stats().running == 1)
        for _ in range(3):
            assert (await engine.generate(request("a b")).whole()).text == "a b"
        await until(lambda: engine.stats().running == 1)  # it leaves the batch after its last chunk
        long.cancel()


async def test_what_does_not_fit_into_the_batch_waits_and_a_full_queue_refuses() -> None:
    engine = EchoEngine(max_queue=2, max_batch=3)
    engine.going.clear()
    async with running(engine):
        streams = [engine.generate(request(str(n))) for n in range(5)]  # at once, before any could join
        with pytest.raises(QueueFull) as refusal:
            engine.generate(request("x"))
        assert refusal.value.retry_after_s >= 1
        await until(lambda: engine.stats().running == 3)
        assert engine.stats().waiting == 2
        with pytest.raises(QueueFull):
            engine.generate(request("x"))
        engine.going.set()
        assert [(await stream.whole()).text for stream in streams] == list("01234")
        assert (await engine.generate(request("x")).whole()).text == "x"


async def test_a_reader_that_leaves_frees_its_place() -> None:
    engine = EchoEngine(max_batch=1, token_s=0.001)
    async with running(engine):
        first, second, third = (engine.generate(request(text)) for text in ("w " * 900, "never " * 900, "a b"))
        second.cancel()  # while it waits
        async for _ in first:
            break  # while it runs
        assert (await third.whole()).text == "a b"
        await until(lambda: engine.stats().running == 0)


async def test_one_request_that_fails_or_is_refused_takes_no_other_with_it() -> None:
    engine = EchoEngine(max_context=5, fail_on="bad")
    async with running(engine):
        good, bad, long = (engine.generate(request(text)) for text in ("a b c", "a bad c", "w " * 6))
        with pytest.raises(RuntimeError, match="bad"):
            await bad.whole()
        with pytest.raises(PromptRefused, match=r"6 .* 5"):
            await long.whole()
        assert (await good.whole()).text == "a b c"
        assert engine.stats().alive


async def test_closing_answers_what_was_accepted() -> None:
    engine = EchoEngine(max_batch=2)
    engine.going.clear()
    async with running(engine):
        streams = [engine.generate(request(str(n))) for n in range(5)]
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        await until(lambda: engine._closed)
        late = engine.generate(request("late"))
        engine.going.set()
        await closing
        assert [(await stream.whole()).text for stream in streams] == list("01234")
        with pytest.raises(EngineDied):
            await late.whole()
        assert not engine.stats().alive


class Failing(EchoEngine):
    """Fails in the first step."""

    def _step(self, rows: list[EchoRow]) -> None:
        self.going.wait()
        raise MemoryError("none left")


@pytest.mark.parametrize("how", ["idle", "waiting", "in a step"])
async def test_an_engine_that_dies_tells_all_who_wait(how: str) -> None:
    engine = Failing(max_batch=1) if how == "in a step" else EchoEngine(max_batch=1)
    engine.going.clear()
    async with running(engine):
        streams = [] if how == "idle" else [engine.generate(request("w " * 9)) for _ in range(3)]
        await until(lambda: engine.stats().running == bool(streams))
        assert engine.stats().alive
        if how == "in a step":
            engine.going.set()
        else:
            engine.die(MemoryError("none left"))
        for stream in streams:
            with pytest.raises(EngineDied):
                await stream.whole()
        await until(lambda: not engine.stats().alive)
        with pytest.raises(EngineDied):
            await engine.generate(request("x")).whole()


def test_a_failed_load_is_told_and_an_engine_that_was_not_loaded_can_be_closed() -> None:
    engine = EchoEngine(load_error=OSError("no weights"))
    with pytest.raises(OSError, match="no weights"):
        engine.load()
    for one in (engine, EchoEngine()):
        one.close()
        assert not one.stats().alive


async def test_the_time_to_try_again_grows_with_the_queue() -> None:
    waits = []
    for queued in (4, 400):
        engine = EchoEngine(max_queue=queued, max_batch=1)
        engine.going.clear()
        async with running(engine):
            for _ in range(queued + 1):
                engine.generate(request("x"))
            with pytest.raises(QueueFull) as refusal:
                engine.generate(request("x"))
            waits.append(refusal.value.retry_after_s)
    assert waits[1] > waits[0] >= 1


async def test_many_requests_at_once_all_get_their_own_answer() -> None:
    engine = EchoEngine(max_queue=500, max_batch=7)
    async with running(engine):
        streams = [engine.generate(request(f"n{n} of {'many ' * (n % 13)}end")) for n in range(300)]
        answers = await asyncio.gather(*[stream.whole() for stream in streams])
        assert [answer.text.split()[0] for answer in answers] == [f"n{n}" for n in range(300)]
        assert all(answer.text.endswith("end") for answer in answers)


@pytest.mark.parametrize(
    "pieces, stops, said, stopped",
    [
        (["one STOP two"], ["STOP"], "one ", True),
        (["one S", "TO", "P two"], ["STOP"], "one ", True),
        (["one S", "TO", "RM"], ["STOP"], "one STORM", False),
        (["aab", "aac"], ["aabaac"], "", True),
        (["x aaa", "ab y"], ["aab"], "x aa", True),
        (["later first"], ["first", "later"], "", True),
        (["one ST"], ["STOP"], "one ST", False),
        (["one"], [""], "one", False),
        (["", "é", "\n\nUser"], ["\n\nUser:"], "é\n\nUser", False),
    ],
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str], said: str, stopped: bool) -> None:
    text, stream, found = "", Stops(stops), False
    for piece in pieces:
        more, found = stream.feed(piece)
        text += more
    assert (text + ("" if found else stream.rest()), found) == (said, stopped)
