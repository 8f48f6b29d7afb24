"""Queue, joining, leaving, cancelling, closing and dying, on the echo engine; and stop strings in pieces of text."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.engines.base import Answer, EngineRequest, Text
from serving.engines.detokenize import StopFilter
from serving.errors import EngineDied, QueueFull
from tests.serving.echo import EchoEngine, EchoRow

pytestmark = pytest.mark.anyio


def make_request(text: str, tokens: int = 99, **wants: Any) -> EngineRequest:
    return EngineRequest(Text(text), tokens, **wants)


@asynccontextmanager
async def run_engine(engine: EchoEngine) -> AsyncIterator[None]:
    """An engine that is loaded, until the block ends."""
    await asyncio.to_thread(engine.load)
    try:
        async with asyncio.timeout(50):
            yield
    finally:
        engine.may_step.set()
        await asyncio.to_thread(engine.close)


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_words_come_one_by_one_and_add_up_to_the_answer() -> None:
    engine = EchoEngine()
    async with run_engine(engine):
        chunks = [chunk async for chunk in engine.generate(make_request("a b c d", 3))]
        assert [chunk.text for chunk in chunks] == ["a", " b", " c"]
        assert [chunk.output_tokens for chunk in chunks] == [1, 2, 3]
        assert [chunk.finish_reason for chunk in chunks] == [None, None, "length"]
        assert {chunk.input_tokens for chunk in chunks} == {4}
        assert await engine.generate(make_request("a b", 2)).collect() == Answer("a b", 2, 2, "stop")
        assert (await engine.generate(make_request("", 2)).collect()).text == ""
        stopped = await engine.generate(make_request("one two three four", stop=("o th",))).collect()
        assert (stopped.text, stopped.finish_reason) == ("one tw", "stop")


async def test_what_does_not_fit_into_the_batch_waits_and_a_full_queue_refuses() -> None:
    engine = EchoEngine(max_queue=2, max_batch=3)
    engine.may_step.clear()
    async with run_engine(engine):
        streams = [engine.generate(make_request(str(n))) for n in range(5)]  # at once, before any could join
        with pytest.raises(QueueFull) as refusal:
            engine.generate(make_request("x"))
        assert refusal.value.retry_after_s >= 1
        await wait_until(lambda: engine.get_stats().running == 3)
        assert engine.get_stats().waiting == 2
        with pytest.raises(QueueFull):
            engine.generate(make_request("x"))
        engine.may_step.set()
        assert [(await stream.collect()).text for stream in streams] == list("01234")
        assert (await engine.generate(make_request("x")).collect()).text == "x"


async def test_closing_answers_what_was_accepted() -> None:
    engine = EchoEngine(max_batch=2)
    engine.may_step.clear()
    async with run_engine(engine):
        streams = [engine.generate(make_request(str(n))) for n in range(5)]
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        await wait_until(lambda: engine._closed)
        late = engine.generate(make_request("late"))
        engine.may_step.set()
        await closing
        assert [(await stream.collect()).text for stream in streams] == list("01234")
        with pytest.raises(EngineDied):
            await late.collect()
        assert not engine.get_stats().alive


class Failing(EchoEngine):
    """Fails in the first step."""

    def _step(self, rows: list[EchoRow]) -> None:
        self.may_step.wait()
        raise MemoryError("none left")


@pytest.mark.parametrize("how", ["idle", "waiting", "in a step"])
async def test_an_engine_that_dies_tells_all_who_wait(how: str) -> None:
    engine = Failing(max_batch=1) if how == "in a step" else EchoEngine(max_batch=1)
    engine.may_step.clear()
    async with run_engine(engine):
        streams = [] if how == "idle" else [engine.generate(make_request("w " * 9)) for _ in range(3)]
        await wait_until(lambda: engine.get_stats().running == bool(streams))
        assert engine.get_stats().alive
        if how == "in a step":
            engine.may_step.set()
        else:
            engine.die(MemoryError("none left"))
        for stream in streams:
            with pytest.raises(EngineDied):
                await stream.collect()
        await wait_until(lambda: not engine.get_stats().alive)
        with pytest.raises(EngineDied):
            await engine.generate(make_request("x")).collect()


@pytest.mark.parametrize(
    "pieces, stops, passed, stopped",
    [
        (["one S", "TO", "P two"], ["STOP"], "one ", True),
        (["one S", "TO", "RM"], ["STOP"], "one STORM", False),
        (["x aaa", "ab y"], ["aab"], "x aa", True),
        (["later first"], ["first", "later"], "", True),
        (["one"], [""], "one", False),
        (["", "é", "\n\nUser"], ["\n\nUser:"], "é\n\nUser", False),
    ],
)
def test_text_ends_before_the_first_stop_string(
    pieces: list[str], stops: list[str], passed: str, stopped: bool
) -> None:
    text, stream, found = "", StopFilter(stops), False
    for piece in pieces:
        more, found = stream.feed(piece)
        text += more
    assert (text + ("" if found else stream.flush()), found) == (passed, stopped)
