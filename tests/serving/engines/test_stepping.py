"""Queue, joining, leaving, cancelling, closing and dying, on the echo engine; and stop strings in pieces of text."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from serving.engines.base import Answer, Chat, EngineRequest, Message, Question, Text, TokenIds
from serving.engines.echo import EchoEngine
from serving.engines.ends import Stops
from serving.errors import EngineDied, PromptRefused, QueueFull


def request(text: str, tokens: int = 99, **wants: Any) -> EngineRequest:
    return EngineRequest(Text(text), tokens, **wants)


def running(engine: EchoEngine, use: Callable[[], Any]) -> Any:
    """What `use` returns in an event loop, with the engine loaded before and closed after it."""

    async def main() -> Any:
        await asyncio.to_thread(engine.load)
        try:
            return await asyncio.wait_for(use(), 20)
        finally:
            engine.going.set()
            await asyncio.to_thread(engine.close)

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_words_come_one_by_one_and_add_up_to_the_answer() -> None:
    engine = EchoEngine()

    async def use() -> None:
        chunks = [chunk async for chunk in engine.generate(request("a b c d", 3))]
        assert [chunk.text for chunk in chunks] == ["a", " b", " c"]
        assert [chunk.output_tokens for chunk in chunks] == [1, 2, 3]
        assert [chunk.finish_reason for chunk in chunks] == [None, None, "length"]
        assert {chunk.input_tokens for chunk in chunks} == {4}
        assert await engine.generate(request("a b", 2)).whole() == Answer("a b", 2, 2, "stop")
        assert (await engine.generate(request("", 2)).whole()).text == ""

    running(engine, use)


@pytest.mark.parametrize(
    "prompt", [Question("a b"), Text("a b"), Chat((Message("system", "x"), Message("user", "a b")))]
)
def test_every_kind_of_prompt_is_answered(prompt: Any) -> None:
    engine = EchoEngine()

    async def use() -> None:
        assert (await engine.generate(EngineRequest(prompt, 9)).whole()).text == "a b"
        assert (await engine.generate(EngineRequest(TokenIds((7, 8)), 9)).whole()).text == "7 8"

    running(engine, use)


def test_a_short_request_that_joins_later_leaves_earlier() -> None:
    engine = EchoEngine(max_batch=2, token_s=0.002)

    async def use() -> None:
        long = engine.generate(request("w " * 500, 500))
        await until(lambda: engine.stats().running == 1)
        for _ in range(3):
            assert (await engine.generate(request("a b")).whole()).text == "a b"
        await until(lambda: engine.stats().running == 1)  # it leaves the batch after its last chunk
        long.cancel()

    running(engine, use)


def test_what_does_not_fit_into_the_batch_waits_and_a_full_queue_refuses() -> None:
    engine = EchoEngine(max_queue=2, max_batch=3)
    engine.going.clear()

    async def use() -> None:
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

    running(engine, use)


def test_a_reader_that_leaves_frees_its_place() -> None:
    engine = EchoEngine(max_batch=1, token_s=0.001)

    async def use() -> None:
        first, second, third = (engine.generate(request(text)) for text in ("w " * 900, "never " * 900, "a b"))
        second.cancel()  # while it waits
        async for _ in first:
            break  # while it runs
        assert (await third.whole()).text == "a b"
        await until(lambda: engine.stats().running == 0)

    running(engine, use)


def test_one_request_that_fails_or_is_refused_takes_no_other_with_it() -> None:
    engine = EchoEngine(max_context=5, fail_on="bad")

    async def use() -> None:
        good, bad, long = (engine.generate(request(text)) for text in ("a b c", "a bad c", "w " * 6))
        with pytest.raises(RuntimeError, match="bad"):
            await bad.whole()
        with pytest.raises(PromptRefused, match=r"6 .* 5"):
            await long.whole()
        assert (await good.whole()).text == "a b c"
        assert engine.stats().alive

    running(engine, use)


def test_closing_answers_what_was_accepted() -> None:
    engine = EchoEngine(max_batch=2)
    engine.going.clear()

    async def use() -> None:
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

    running(engine, use)


@pytest.mark.parametrize("idle", [False, True])
def test_an_engine_that_dies_tells_all_who_wait(idle: bool) -> None:
    engine = EchoEngine(max_batch=1)
    engine.going.clear()

    async def use() -> None:
        streams = [] if idle else [engine.generate(request("w " * 9)) for _ in range(3)]
        await until(lambda: engine.stats().running == (0 if idle else 1))
        assert engine.stats().alive
        engine.die(MemoryError("none left"))
        for stream in streams:
            with pytest.raises(EngineDied):
                await stream.whole()
        await until(lambda: not engine.stats().alive)
        with pytest.raises(EngineDied):
            await engine.generate(request("x")).whole()

    running(engine, use)


def test_a_failed_load_is_told_and_leaves_no_thread() -> None:
    engine = EchoEngine(load_error=OSError("no weights"))
    with pytest.raises(OSError, match="no weights"):
        engine.load()
    engine.close()
    assert not engine.stats().alive


def test_an_engine_that_was_never_loaded_can_be_closed() -> None:
    engine = EchoEngine()
    engine.close()
    assert not engine.stats().alive


def test_the_time_to_try_again_grows_with_the_queue() -> None:
    waits = []
    for queued in (4, 400):
        engine = EchoEngine(max_queue=queued, max_batch=1)
        engine.going.clear()

        async def use(engine: EchoEngine = engine, queued: int = queued) -> None:
            for _ in range(queued + 1):
                engine.generate(request("x"))
            with pytest.raises(QueueFull) as refusal:
                engine.generate(request("x"))
            waits.append(refusal.value.retry_after_s)

        running(engine, use)
    assert waits[1] > waits[0] >= 1


def test_many_requests_at_once_all_get_their_own_answer() -> None:
    engine = EchoEngine(max_queue=500, max_batch=7)

    async def use() -> None:
        begun = time.monotonic()
        streams = [engine.generate(request(f"n{n} of {'many ' * (n % 13)}end")) for n in range(300)]
        answers = await asyncio.gather(*[stream.whole() for stream in streams])
        assert [answer.text.split()[0] for answer in answers] == [f"n{n}" for n in range(300)]
        assert all(answer.text.endswith("end") for answer in answers)
        assert time.monotonic() - begun < 15

    running(engine, use)


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


def test_stop_strings_end_an_answer() -> None:
    engine = EchoEngine()

    async def use() -> None:
        answer = await engine.generate(request("one two three four", stop=("o th",))).whole()
        assert (answer.text, answer.finish_reason) == ("one tw", "stop")

    running(engine, use)


class Weights:
    """Stands for what a model has in memory."""


class Heavy(EchoEngine):
    """Has weights, which its frames hold when it fails."""

    def __init__(self, fails_in: str) -> None:
        super().__init__()
        self._fails_in, self.seen = fails_in, lambda: None

    def _load(self) -> None:
        weights = self._weights = Weights()
        self.seen = weakref.ref(weights)
        self._fail("load", weights)

    def _step(self, rows: Any) -> None:
        weights = self._weights
        try:
            self._fail("step", weights)
        except ZeroDivisionError as error:
            raise RuntimeError("no step more") from error

    def _fail(self, where: str, weights: Any) -> None:
        if where == self._fails_in:
            _ = 1 / 0

    def _unload(self) -> None:
        del self._weights


def test_an_engine_that_died_keeps_nothing_of_its_model() -> None:
    engine = Heavy("step")

    async def use() -> None:
        assert engine.seen() is not None
        with pytest.raises(EngineDied):
            await engine.generate(request("a b")).whole()
        await until(lambda: not engine._thread.is_alive())
        assert engine.seen() is None and isinstance(engine._error, RuntimeError)

    running(engine, use)


def test_nor_does_one_that_could_not_be_loaded() -> None:
    engine = Heavy("load")
    with pytest.raises(ZeroDivisionError) as kept:
        engine.load()
    engine.close()
    assert engine.seen() is None and kept.value is engine._error
