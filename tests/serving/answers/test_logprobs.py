"""Log-probabilities of an answer's tokens, as clients ask for them, unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from llmops import prompts
from llmops.features.tokenize import Tokens
from llmops.model.base.load import load_servable
from llmops.model.base.packing import answer_nats
from serving.engines.logprobs import token_bytes

from .test_clients import HELLO, ROOM, Person, chat, openai_format


@pytest.fixture(scope="module")
def likelihood(tiny_base: Path, tokenizer: Any) -> Callable[[str, list[str]], float]:
    """The log-likelihood of tokens behind a text, as training and evaluation count it."""
    ids = {token_bytes(tokenizer, token).decode(errors="replace"): token for token in range(len(tokenizer))}
    model = load_servable(tiny_base)[0].float()

    def found(text: str, tokens: list[str]) -> float:
        prompt = prompts.text_ids(tokenizer, text)
        return -answer_nats(model, [Tokens("it", [*prompt, *(ids[token] for token in tokens)], len(prompt))])[0][0]

    return found


def test_log_probabilities_are_those_that_the_model_itself_gives(
    client: openai.OpenAI, likelihood: Callable[[str, list[str]], float]
) -> None:
    asked: list[dict[str, Any]] = [
        {"temperature": t, "seed": s, "top_p": p} for s in range(5) for t, p in [(1, 1), (2, 0.9)]
    ]
    for text, more in [("Once upon", {}), *(("Is it?", one) for one in asked)]:
        answer = client.completions.create(model="support-bot", prompt=text, logprobs=0, max_tokens=9, **more)
        told, counted = answer.choices[0].logprobs, answer.usage
        assert told and told.tokens and told.token_logprobs and counted
        assert "".join(told.tokens) == answer.choices[0].text
        if len(told.tokens) == counted.completion_tokens and not any(t in ("", "\ufffd") for t in told.tokens):
            likely = likelihood(text, told.tokens)
            assert sum(told.token_logprobs) == pytest.approx(likely, abs=0.02)
            asked.remove(more) if more else None
    assert len(asked) < 5  # most of them could be read as tokens


def test_log_probabilities_are_told_the_same_to_sixteen_at_once_and_to_one(served: dict[str, str]) -> None:
    asked = [{"temperature": 1.5, "seed": seed, "max_tokens": 40, "stop": ["a", "。"]} for seed in range(8)]

    async def use() -> list[Any]:
        async with openai.AsyncOpenAI(**served, max_retries=0) as client:
            common: Any = {"model": "support-bot", "messages": HELLO, "logprobs": True, "n": 2}

            async def streamed(more: Any) -> Any:
                async with client.chat.completions.stream(**common, **more) as stream:
                    return await stream.get_final_completion()

            whole = [client.chat.completions.create(**common, **more) for more in asked]
            return await asyncio.gather(*whole, *map(streamed, asked))

    together = asyncio.run(use())
    with openai.OpenAI(**served, max_retries=0) as client:
        for more, whole, streamed in zip(asked, together[:8], together[8:], strict=True):
            for one, same, alone in zip(
                whole.choices, streamed.choices, chat(client, logprobs=True, n=2, **more).choices, strict=True
            ):
                told = one.logprobs.content
                assert one.message.content == same.message.content == alone.message.content
                for other in (same, alone):  # who else is in the batch moves the last digits
                    assert [t.bytes for t in other.logprobs.content] == [t.bytes for t in told]
                    sure = pytest.approx([t.logprob for t in told], abs=1e-4)
                    assert [t.logprob for t in other.logprobs.content] == sure
                assert "".join(token.token for token in told) == one.message.content
                data = b"".join(bytes(token.bytes) for token in told)
                assert data.decode(errors="replace") == one.message.content
                assert all(token.logprob < 0 and token.top_logprobs == [] for token in told)


def test_what_the_engine_does_not_tell_is_refused_and_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="top_logprobs"):
        chat(client, logprobs=True, top_logprobs=3)
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.completions.create(model="support-bot", prompt="Hi", logprobs=1)
    assert chat(client, logprobs=True, top_logprobs=0, max_tokens=2).choices[0].logprobs


def test_an_answer_that_follows_a_class_is_told_as_tokens_too(client: openai.OpenAI) -> None:
    (choice,) = chat(client, response_format=openai_format(Person), logprobs=True, **ROOM).choices
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


def test_langchain_gets_log_probabilities(served: dict[str, str]) -> None:
    model = ChatOpenAI(**served, model="support-bot", max_retries=0, logprobs=True, **ROOM)  # type: ignore[arg-type]
    answer = model.invoke("Who?")
    assert "".join(token["token"] for token in answer.response_metadata["logprobs"]["content"]) == answer.content
