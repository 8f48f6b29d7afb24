"""Limits per key and minute: requests, and tokens of prompts and answers.

A request counts when it comes. Before it reaches the model, the most tokens that it could use are reserved, so that
requests at the same time cannot together use more than the limit; afterwards the real number takes the place of the
reservation. A request that could use more than the whole limit is let in when the window is empty. Only then can a key
use more than its limit, and by no more than this one answer.

`KeyLimits` are a key's two numbers; the `Limiter` counts for all keys; a `RequestAllowance` is one request's share of
its key's limits, from its arrival to the end of its answer.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmops.access.roles import Key
from llmops.config import Serving
from serving.admission.windows import KeyLimits, OwnWindows, RedisWindows, SharedWindows, Windows, WindowUse
from serving.engines.base import Chat, EngineRequest, Question, Text, TokenIds
from serving.errors import ClientLeft, Limited, TimedOut

_CALLER_LEFT = (ClientLeft, TimedOut)
TEMPLATE_TOKENS = 64  #: most tokens that a model's template adds to a prompt
MESSAGE_TOKENS = 16  #: most tokens that it adds to each message in it


class Limiter:
    """The limits of each key, and its use of them in the last minute. For `tell` see `SharedWindows`.

    Raises:
        ConfigError: if a variable of the environment, ${VAR} in `serving.limits`, is missing.
    """

    def __init__(
        self,
        config: Serving,
        tell: Callable[[str], None],
        environ: Mapping[str, str] = os.environ,
        windows: Windows | None = None,
    ) -> None:
        self._config = config
        shared = config.limits and windows is None
        self._windows = SharedWindows(RedisWindows(config.limits, environ), tell) if shared else windows or OwnWindows()
        self._settling: set[asyncio.Task[None]] = set()

    def of(self, key: Key) -> KeyLimits:
        """Return the limits of a key: its own, else those of the configuration."""
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        return KeyLimits(
            self._config.requests_per_minute if requests is None else requests,
            self._config.tokens_per_minute if tokens is None else tokens,
        )

    async def take(self, key: Key, request: str, tokens: int) -> WindowUse:
        """Enter a request into its key's window, or change its tokens there; see `Windows.take`."""
        limits = self.of(key)
        if not limits.requests and not limits.tokens:
            return WindowUse(True, 0, 0, 0.0, 0.0)
        return await self._windows.take(key.prefix, request, tokens, limits)

    def settle(self, key: Key, request: str, tokens: int) -> None:
        """Put the tokens that a request used in the place of its reservation, in a task that no caller cancels."""
        task = asyncio.create_task(self._windows.settle(key.prefix, request, tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Finish settling, and let go of connections."""
        await asyncio.gather(*self._settling)
        await self._windows.close()


class RequestAllowance:
    """One request's share of its key's limits; used through `dependencies.limited` and `dependencies.reserve`.

    The request's event says how many tokens were used.
    """

    def __init__(self, limiter: Limiter, key: Key, request: str, event: Mapping[str, Any]) -> None:
        self.key = key
        self._limiter, self._request, self._event = limiter, request, event
        self._limits = limiter.of(key)
        self._use = WindowUse(False, 0, 0, 0.0, 0.0)
        self._answers = self._reserved = 0

    async def enter(self) -> None:
        """Count the request.

        Raises:
            Limited: if the key has used its requests or its tokens of this minute.
        """
        await self._take(0)

    async def reserve(self, requests: Sequence[EngineRequest]) -> None:
        """Set aside the most tokens that some requests to an engine could use.

        Raises:
            Limited: if the key may not use so many now.
        """
        if self._limits.tokens:
            self._answers = len(requests)
            self._reserved = min(sum(most_tokens(request) for request in requests), self._limits.tokens)
            await self._take(self._reserved)

    def settle(self, error: Exception | None = None) -> None:
        """Replace the reservation by the used tokens of the event, after the end of the answer.

        If the event names none, a request that failed with an `error` of ours used none. If the caller left or time was
        over, nobody knows how many it used, and the reservation stays.
        """
        used = self._used()
        if self._use.taken and self._reserved and (used or not (error is None or isinstance(error, _CALLER_LEFT))):
            self._limiter.settle(self.key, self._request, used)
            self._use = replace(self._use, tokens=self._use.tokens - self._reserved + used)
            self._reserved = used

    def headers(self) -> dict[str, str]:
        """Return the headers that tell the caller of the limits, with OpenAI's names."""
        headers: dict[str, str] = {}
        used = self._use.tokens
        if self._answers and len(self._event.get("gen_ai.response.finish_reasons", ())) >= self._answers:
            used += self._used() - self._reserved
        for what, limit, n in (
            ("requests", self._limits.requests, self._use.requests),
            ("tokens", self._limits.tokens, used),
        ):
            if limit:
                headers[f"x-ratelimit-limit-{what}"] = str(limit)
                headers[f"x-ratelimit-remaining-{what}"] = str(max(limit - n, 0))
                headers[f"x-ratelimit-reset-{what}"] = f"{math.ceil(self._use.reset_s * 1000) / 1000:g}s"
        if self._use.wait_s:
            headers["retry-after-ms"] = str(math.ceil(self._use.wait_s * 1000))  # OpenAI's clients prefer it
        return headers

    async def _take(self, tokens: int) -> None:
        use = self._use = await self._limiter.take(self.key, self._request, tokens)
        if not use.taken:
            raise Limited(_refusal(self._limits, use, tokens), use.wait_s)

    def _used(self) -> int:
        return int(sum(self._event.get(f"gen_ai.usage.{what}", 0) for what in ("input_tokens", "output_tokens")))


def most_tokens(request: EngineRequest) -> int:
    """Return the most tokens that a request can use, prompt and answer together: a token is at least a byte of text."""
    match request.prompt:
        case TokenIds(ids):
            prompt = len(ids)
        case Text(text):
            prompt = TEMPLATE_TOKENS + _bytes(text)
        case Question(text, context):
            prompt = TEMPLATE_TOKENS + 2 * MESSAGE_TOKENS + _bytes(text) + _bytes(context)
        case Chat(messages):
            texts = (message.content + message.context for message in messages)
            prompt = TEMPLATE_TOKENS + sum(MESSAGE_TOKENS + _bytes(text) for text in texts)
    return prompt + request.max_new_tokens


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _refusal(limits: KeyLimits, use: WindowUse, tokens: int) -> str:
    if limits.requests and use.requests >= limits.requests:
        what = f"{limits.requests} requests"
    else:
        what = f"{limits.tokens} tokens ({use.tokens} are used or reserved and this request may take {tokens})"
    return f"This key may use {what} a minute; try again in {math.ceil(use.wait_s)} s."
