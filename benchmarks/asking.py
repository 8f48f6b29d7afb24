"""The load generator: asks a server the same questions at a given number of streams, and notes when text comes.

A closed loop: as many workers as streams, each with its next question as soon as its last one is answered. It runs in a
process of its own, reads what to do as JSON from its standard input, and prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx


@dataclass
class Seen:
    """One answer, as its reader saw it. Times in seconds since the request was sent."""

    status: int = 0
    text: str = ""
    tokens: int = 0
    first_s: float = 0.0  #: until the first text
    whole_s: float = 0.0  #: until the end
    gaps_s: list[float] = field(default_factory=list)  #: between one piece of text and the next


def main() -> None:
    """Do what standard input says."""
    options = json.load(sys.stdin)
    seen, seconds = asyncio.run(ask_all(**options))
    print(json.dumps({"seconds": seconds, "answers": [asdict(one) for one in seen]}))


async def ask_all(
    style: str,
    url: str,
    questions: Sequence[str],
    streams: int,
    max_tokens: int,
    model: str = "",
    headers: Mapping[str, str] | None = None,
) -> tuple[list[Seen], float]:
    """Ask all questions, `streams` at a time; returns what was seen of each, in order, and the seconds it took.

    Args:
        style: `openai` streams from `/v1/chat/completions`; `whole` posts to `/generate` and gets the answer at once.
    """
    seen = [Seen() for _ in questions]
    left = iter(range(len(questions)))
    ask = {"openai": _openai, "whole": _whole}[style]
    # A connection for each request, for all servers: llama.cpp's closes one now and then as the next request comes.
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, limits=limits) as client:

        async def work() -> None:
            for n in left:
                await _timed(ask(client, questions[n], max_tokens, model, seen[n]), seen[n])

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(streams)))
        return seen, time.perf_counter() - begun


async def _timed(pieces: AsyncIterator[str], seen: Seen) -> None:
    begun = last = time.perf_counter()
    async for text in pieces:
        if not text:
            continue
        now = time.perf_counter()
        if seen.text:
            seen.gaps_s.append(now - last)
        else:
            seen.first_s = now - begun
        seen.text += text
        last = now
    seen.whole_s = time.perf_counter() - begun


async def _openai(
    client: httpx.AsyncClient, question: str, max_tokens: int, model: str, seen: Seen
) -> AsyncIterator[str]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        seen.status = response.status_code
        if response.status_code != 200:
            await response.aread()
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if usage := event.get("usage"):
                seen.tokens = usage["completion_tokens"]
            for choice in event["choices"]:
                yield choice["delta"].get("content") or ""


async def _whole(
    client: httpx.AsyncClient, question: str, max_tokens: int, model: str, seen: Seen
) -> AsyncIterator[str]:
    response = await client.post("/generate", json={"prompt": question, "max_new_tokens": max_tokens})
    seen.status = response.status_code
    if response.status_code == 200:
        answer = response.json()
        seen.tokens = answer["usage"]["output_tokens"]
        yield answer["response"]


if __name__ == "__main__":
    main()
