"""What both engines of one running batch are asked in their tests, and how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.engines.base import Answer, Engine, EngineRequest, Question, Text

REQUESTS = [EngineRequest(Question(text), tokens) for text, tokens in zip(
    ["Hello", "Where is my parcel, and when will it come?", "word " * 90, "Hi", "Ünïcödé 你好 🙂", "a b c " * 20],
    [9, 30, 12, 3, 25, 17],
    strict=True,
)]  # fmt: skip


def run(engine: Engine, use: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        await asyncio.to_thread(engine.load)
        try:
            return await asyncio.wait_for(use(), 100)
        finally:
            await asyncio.to_thread(engine.close)

    return asyncio.run(main())


def answered(engine: Engine, requests: list[EngineRequest]) -> list[Answer]:
    """The answers to requests that are all made at once."""

    async def use() -> list[Answer]:
        return await asyncio.gather(*[stream.whole() for stream in [engine.generate(request) for request in requests]])

    answers: list[Answer] = run(engine, use)
    return answers


def goes_on_if_asked(engine: Engine, folder: Path, begins: int) -> None:
    """An answer is empty whose first token ends it, and goes on with `ignore_eos`, up to what the caller says.

    Args:
        engine: of the folder, not loaded.
        folder: a servable folder, whose generation configuration is overwritten.
        begins: what its model says first to "Once upon".
    """
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [begins]}))
    ask = EngineRequest(Text("Once upon"), 12)
    ended, on = answered(engine, [ask, replace(ask, ignore_eos=True)])
    assert (ended.text, ended.output_tokens, ended.finish_reason) == ("", 0, "stop")
    assert on.text
    assert (on.output_tokens, on.finish_reason) == (12, "length")
