"""Queue, turns, joining, leaving, closing and dying, on the echo engine; and stop strings in pieces of text."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serving.engines.base import Answer, EngineRequest, Stream, Text
from serving.engines.detokenize import StopFilter
from serving.errors import EngineDied, QueueFull, QueueShareFull
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
        streams = [engine.generate(make_request(str(n), key=str(n))) for n in range(5)]  # before any could join
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


def sort_begun(streams: list[Stream]) -> list[int]:
    """Return the positions of the streams in the order in which they left the queue."""
    assert all(stream.begun_at for stream in streams)
    return sorted(range(len(streams)), key=lambda n: streams[n].begun_at)


async def test_one_caller_holds_up_no_other() -> None:
    engine = EchoEngine(max_queue=100, max_batch=1)
    engine.may_step.clear()
    async with run_engine(engine):
        streams = [engine.generate(make_request("w w", key="greedy")) for _ in range(41)]
        await wait_until(lambda: engine.get_stats().running == 1)
        streams += [engine.generate(make_request("hi", key=caller)) for caller in ("modest", "modest", "other")]
        engine.may_step.set()
        for stream in streams:
            await stream.collect()
        assert sort_begun(streams) == [0, 1, 41, 43, 2, 42, *range(3, 41)]


async def test_places_in_the_batch_go_to_the_caller_with_the_fewest() -> None:
    engine = EchoEngine(max_queue=100, max_batch=4)
    engine.may_step.clear()
    async with run_engine(engine):
        first = [engine.generate(make_request("w w", key="a")) for _ in range(4)]
        await wait_until(lambda: engine.get_stats().running == 4)
        streams = [engine.generate(make_request("w w", key=caller)) for caller in "aaaabbc"]
        engine.may_step.set()
        for stream in [*first, *streams]:
            await stream.collect()
        assert sort_begun(streams) == [0, 4, 6, 1, 5, 2, 3]


async def test_a_caller_has_no_more_places_in_the_queue_than_it_leaves_free() -> None:
    engine = EchoEngine(max_queue=8, max_batch=2)
    engine.may_step.clear()

    def fill(caller: str) -> int:
        """Return how many requests of a caller are taken until one is refused."""
        for taken in range(99):
            try:
                streams.append(engine.generate(make_request(caller, key=caller)))
            except QueueShareFull as refusal:
                assert refusal.retry_after_s >= 1 and "other keys" in str(refusal)
                return taken
        raise AssertionError

    streams: list[Stream] = []
    async with run_engine(engine):
        assert [fill("a"), fill("b"), fill("c")] == [2 + 4, 2, 1]  # two of the batch and half of the queue; of the rest
        await wait_until(lambda: engine.get_stats().running == 2)
        assert fill("a") == fill("b") == fill("c") == 0
        streams.append(engine.generate(make_request("d", key="d")))  # the last place is a newcomer's
        with pytest.raises(QueueFull):
            engine.generate(make_request("e", key="e"))
        leaving = [stream for stream in streams if not stream.begun_at][:3]  # of `a`, which has four
        for stream in leaving:
            stream.cancel()
        assert fill("e") == 2
        engine.may_step.set()
        for stream in streams:
            if stream not in leaving:
                assert (await stream.collect()).finish_reason == "stop"


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
