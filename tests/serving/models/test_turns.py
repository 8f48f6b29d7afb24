"""Keys take turns: one that floods delays another's request by an answer or so, and keeps nobody out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from serving.engines.base import EngineRequest, Text
from serving.engines.echo import EchoEngine
from serving.errors import ClientLeft, EngineDied, QueueFull
from serving.models.turns import Turns

BATCH, QUEUE = 4, 20


def asked(caller: str, text: str = "a b c") -> EngineRequest:
    return EngineRequest(Text(text), 99, caller=caller)


def running(use: Callable[[Turns, EchoEngine], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        engine = EchoEngine(QUEUE, BATCH, **options)
        turns = Turns(engine, QUEUE, BATCH)
        await asyncio.to_thread(turns.load)
        try:
            await asyncio.wait_for(use(turns, engine), 30)
        finally:
            engine.going.set()
            await asyncio.to_thread(turns.close)
        assert not turns._waiting and not turns._places

    asyncio.run(main())


def test_who_floods_delays_others_by_about_one_answer() -> None:
    ended: list[str] = []

    async def use(turns: Turns, engine: EchoEngine) -> None:
        async def read(caller: str, stream: Any) -> None:
            await stream.whole()
            ended.append(caller)

        engine.going.clear()
        streams = [("flood", turns.generate(asked("flood", "word " * 8))) for _ in range(QUEUE + BATCH - 2)]
        streams += [(caller, turns.generate(asked(caller, "word"))) for caller in ("one", "two")]
        engine.going.set()
        await asyncio.gather(*(read(caller, stream) for caller, stream in streams))

    running(use, token_s=0.002)
    before = [ended[: ended.index(caller)].count("flood") for caller in ("one", "two")]
    assert max(before) <= 2 * BATCH + 1, before  # of 22: what was in the engine, and what came beside it


def test_in_a_full_queue_who_has_fewer_places_takes_one_of_who_has_most() -> None:
    async def use(turns: Turns, engine: EchoEngine) -> None:
        engine.going.clear()
        streams = {"a": [turns.generate(asked("a")) for _ in range(QUEUE + BATCH)]}  # alone it may have all
        with pytest.raises(QueueFull) as full:
            turns.generate(asked("a"))
        assert full.value.retry_after_s >= 1
        streams["b"] = []
        with pytest.raises(QueueFull):
            while True:
                streams["b"].append(turns.generate(asked("b")))
        assert len(streams["b"]) == (QUEUE + BATCH) // 2
        engine.going.set()
        results = {k: await asyncio.gather(*(s.whole() for s in v), return_exceptions=True) for k, v in streams.items()}
        assert all(answer.text == "a b c" for answer in results["b"])
        refused = [isinstance(answer, QueueFull) for answer in results["a"]]
        assert refused == [False] * 12 + [True] * 12  # the last to come

    running(use)


def test_the_answers_of_one_request_give_their_places_together_and_those_that_have_begun_last() -> None:
    async def use(turns: Turns, engine: EchoEngine) -> None:
        engine.going.clear()
        half = (QUEUE + BATCH) // 2
        streams = [turns.generate(replace(asked("a"), batch=batch)) for batch in "xy" for _ in range(half)]
        first = turns.generate(asked("b"))
        refused = await asyncio.gather(*(s.whole() for s in streams[half:]), return_exceptions=True)
        assert all(isinstance(answer, QueueFull) for answer in refused)
        more = [turns.generate(replace(asked("a"), batch="x")) for _ in range(half - 1)]
        last = turns.generate(asked("c"))
        refused = await asyncio.gather(*(s.whole() for s in streams[:half] + more), return_exceptions=True)
        assert all(isinstance(answer, QueueFull) for answer in refused)
        engine.going.set()
        assert [(await stream.whole()).text for stream in (first, last)] == ["a b c"] * 2

    running(use)


def test_places_of_those_who_leave_are_free_at_once() -> None:
    async def use(turns: Turns, engine: EchoEngine) -> None:
        engine.going.clear()
        streams = [turns.generate(asked("a")) for _ in range(QUEUE + BATCH)]
        for stream in streams[-5:]:
            stream.push(ClientLeft())
            stream.cancel()
        assert turns.stats().waiting + turns.stats().running == QUEUE + BATCH - 5
        again = [turns.generate(asked("a")) for _ in range(5)]
        engine.going.set()
        answers = await asyncio.gather(*(s.whole() for s in streams[:-5] + again))
        assert {answer.text for answer in answers} == {"a b c"}
        with pytest.raises(ClientLeft):
            await streams[-1].whole()

    running(use)


def test_who_reads_nothing_of_his_answers_holds_nobody_up() -> None:
    async def use(turns: Turns, engine: EchoEngine) -> None:
        unread = [turns.generate(asked("slow")) for _ in range(QUEUE + BATCH)]
        assert (await turns.generate(asked("other", "word")).whole()).text == "word"
        for stream in unread:
            stream.cancel()

    running(use)


def test_closing_answers_what_was_accepted_and_a_dead_engine_tells_all() -> None:
    async def use(turns: Turns, engine: EchoEngine) -> None:
        streams = [turns.generate(asked("a")) for _ in range(QUEUE)]
        closing = asyncio.create_task(asyncio.to_thread(turns.close))
        answers = await asyncio.gather(*(stream.whole() for stream in streams))
        assert {answer.text for answer in answers} == {"a b c"}
        await closing

    async def dies(turns: Turns, engine: EchoEngine) -> None:
        engine.going.clear()
        streams = [turns.generate(asked("a")) for _ in range(QUEUE)]
        engine.die(RuntimeError("it broke"))
        engine.going.set()
        results = await asyncio.gather(*(stream.whole() for stream in streams), return_exceptions=True)
        assert all(isinstance(result, EngineDied) for result in results)

    running(use, token_s=0.001)
    running(dies)
