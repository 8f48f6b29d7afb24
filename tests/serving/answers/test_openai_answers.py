"""Answers in OpenAI's form: what is in them, and that writing long ones holds up nobody else."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving.answers import openai_answers
from serving.answers.openai_logprobs import LEAST, chat_logprobs, completion_logprobs
from serving.answers.openai_schemas import Completion
from serving.engines.base import Chunk, TokenLogprob

ROUTES = {
    "chat/completions": {"messages": [{"role": "user", "content": "one two"}], "logprobs": True, "top_logprobs": 1},
    "completions": {"prompt": "one two", "logprobs": 1},
}


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_is_written_off_the_loop_and_is_what_the_description_says(
    site: Any, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops, name = list[bool](), "chat_logprobs" if route.startswith("chat") else "completion_logprobs"
    real = getattr(openai_answers, name)

    def told(*args: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loops.append(False)
        else:
            loops.append(True)
        made = real(*args)
        assert type(made) is dict  # no models, of which there would be one a token
        return made

    monkeypatch.setattr(openai_answers, name, told)
    body = {"model": "support-bot", "n": 2, **ROUTES[route]}
    with site.client() as client:
        site.ready(client)
        answer = client.post(f"/v1/{route}", json=body, headers=site.headers())
    assert answer.headers["content-type"] == "application/json"
    assert Completion.model_validate_json(answer.content, strict=True).model_dump(mode="json") == answer.json()
    assert loops == [False, False]


def test_others_have_their_turn_between_two_chunks_that_are_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    async def there(*_: Any) -> AsyncIterator[Chunk]:
        for n in range(3):
            yield Chunk("a", 1, n)

    class Ended:
        def cancel(self) -> None:
            pass

    async def run() -> list[int]:
        turns, seen = 0, list[int]()

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop = asyncio.get_running_loop()
        loop.call_soon(turn)
        nothing: Any = None
        answers: Any = [Ended(), Ended()]
        async for _ in openai_answers._in_turn(nothing, answers, 1.0):
            seen.append(turns)
        return seen

    monkeypatch.setattr(openai_answers, "deliver", there)
    seen = asyncio.run(run())
    assert len(seen) == len(set(seen)) == 6


def token(text: str, logprob: float, data: bytes | None = None, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(text, text.encode() if data is None else data, logprob, top)


def test_alternatives_with_the_same_text_do_not_hide_the_likeliest() -> None:
    top = (
        token("one", -1.0),
        token("\ufffd", -2.0, b"\xf0\x9f"),
        token("\ufffd", -3.0, b"\xc3"),
        token("\ufffd", -4.0),
    )
    told = completion_logprobs([token("two", -5.0, top=(*top, token("one", -6.0)))], 5)
    assert told["top_logprobs"] == [
        {"one": -1.0, r"bytes:\xf0\x9f": -2.0, r"bytes:\xc3": -3.0, "\ufffd": -4.0, "two": -5.0}
    ]


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_what_is_no_number_in_json_is_told_as_the_least(logprob: float) -> None:
    odd = [token("a", logprob, top=(token("b", logprob),))]
    (told,) = chat_logprobs(odd)["content"]
    assert told["logprob"] == told["top_logprobs"][0]["logprob"] == LEAST
    assert completion_logprobs(odd, 1)["top_logprobs"] == [{"b": LEAST, "a": LEAST}]
    json.dumps([told, completion_logprobs(odd, 1)], allow_nan=False)
