"""Limits per key and minute: requests, and tokens of prompts and answers.

A request counts when it arrives. Before it reaches the model, the most tokens that it could use are reserved, so that
concurrent requests cannot use more than the limit together. The used tokens replace the reservation afterwards. A
request that could use more than the whole limit is admitted when the window is empty. Only then can a key use more than
its limit, and by no more than this one answer.

`KeyLimits` are a key's two numbers. The `Limiter` counts for all keys. A `RequestAllowance` is one request's share of
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
from serving.admission.budgets import Budgets
from serving.admission.windows import KeyLimits, LocalWindows, RedisWindows, SharedWindows, Windows, WindowUse
from serving.engines.base import Chat, EngineRequest, Question, Text, TokenIds
from serving.errors import ClientLeft, LimitExceeded, TimedOut

_CALLER_LEFT = (ClientLeft, TimedOut)
TEMPLATE_TOKENS = 64  #: most tokens that a model's template adds to a prompt
MESSAGE_TOKENS = 16  #: most tokens that it adds to each message in it


class Limiter:
    """The limits of each key, and their use in the last minute. For `on_change` see `SharedWindows`.

    Raises:
        ConfigError: if a variable of the environment, ${VAR} in `serving.limits`, is missing.
    """

    def __init__(
        self,
        config: Serving,
        on_change: Callable[[str], None],
        environ: Mapping[str, str] = os.environ,
        windows: Windows | None = None,
    ) -> None:
        self._config = config
        shared = config.limits and windows is None
        self._windows = (
            SharedWindows(RedisWindows(config.limits, environ), on_change) if shared else windows or LocalWindows()
        )
        self._settling: set[asyncio.Task[None]] = set()

    def get_limits(self, key: Key) -> KeyLimits:
        """Return a key's own limits, else those of the configuration."""
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        return KeyLimits(
            self._config.requests_per_minute if requests is None else requests,
            self._config.tokens_per_minute if tokens is None else tokens,
        )

    async def take(self, key: Key, request: str, tokens: int) -> WindowUse:
        """Add a request to its key's window, or change its tokens there; see `LocalWindows.take`."""
        limits = self.get_limits(key)
        if not limits.requests and not limits.tokens:
            return WindowUse(True, 0, 0, 0.0, 0.0)
        return await self._windows.take(key.prefix, request, tokens, limits)

    def settle(self, key: Key, request: str, tokens: int) -> None:
        """Replace a request's reservation by its used tokens, in a task that no caller can cancel."""
        task = asyncio.create_task(self._windows.settle(key.prefix, request, tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def close(self) -> None:
        """Wait for all settlements, and close the connections."""
        await asyncio.gather(*self._settling)
        await self._windows.close()


class RequestAllowance:
    """One request's share of its key's limits; see `dependencies.require_within_limits` and `dependencies.reserve`.

    The used tokens come from the request's event. With `budgets`, the request also counts for its key's month.
    """

    def __init__(
        self, limiter: Limiter, budgets: Budgets | None, key: Key, request: str, event: Mapping[str, Any]
    ) -> None:
        self.key = key
        self._budgets = budgets
        self._limiter, self._request, self._event = limiter, request, event
        self._limits = limiter.get_limits(key)
        self._use = WindowUse(False, 0, 0, 0.0, 0.0)
        self._answers = self._reserved = 0

    async def enter(self) -> None:
        """Count the request.

        Raises:
            LimitExceeded: if the key has used its requests or its tokens of this minute, or its tokens of this month.
        """
        if self._budgets:
            self._budgets.check(self.key)
        await self._take(0)

    async def reserve(self, requests: Sequence[EngineRequest], system_tokens: int = 0) -> None:
        """Reserve the most tokens that these requests to an engine could use, `system_tokens` of them for each prompt.

        Raises:
            LimitExceeded: if the key may not use so many now.
        """
        tokens = sum(
            compute_token_bound(request) + system_tokens * (request.max_new_tokens > 0) for request in requests
        )
        if self._budgets:
            self._budgets.reserve(self.key, self._request, tokens)
        if self._limits.tokens:
            self._answers = sum(request.max_new_tokens > 0 for request in requests)  # embeddings have none
            self._reserved = min(tokens, self._limits.tokens)
            await self._take(self._reserved)

    def settle(self, error: Exception | None = None) -> None:
        """Replace the reservation by the used tokens in the event, after the end of the answer.

        If the event has none, a request that failed with an `error` of the app used none. If the caller left or the
        time ran out, the number is unknown, and the reservation stays; so it is for several answers of which the event
        has not all, because they are computed together. The reservation of the month ends in any case.
        """
        if self._budgets:
            self._budgets.release(self._request)
        used = self._sum_used_tokens()
        known = used and (self._answers <= 1 or self._have_all_ended())
        if self._use.taken and self._reserved and (known or not (error is None or isinstance(error, _CALLER_LEFT))):
            self._limiter.settle(self.key, self._request, used)
            self._use = replace(self._use, tokens=self._use.tokens - self._reserved + used)
            self._reserved = used

    def make_headers(self) -> dict[str, str]:
        """Return the response headers about the limits, with OpenAI's names."""
        headers: dict[str, str] = {}
        used = self._use.tokens
        if self._answers and self._have_all_ended():
            used += self._sum_used_tokens() - self._reserved
        for unit, limit, count in (
            ("requests", self._limits.requests, self._use.requests),
            ("tokens", self._limits.tokens, used),
        ):
            if limit:
                headers[f"x-ratelimit-limit-{unit}"] = str(limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(max(limit - count, 0))
                headers[f"x-ratelimit-reset-{unit}"] = f"{math.ceil(self._use.reset_s * 1000) / 1000:g}s"
        if self._use.wait_s:
            headers["retry-after-ms"] = str(math.ceil(self._use.wait_s * 1000))  # OpenAI's clients read it first
        return headers

    async def _take(self, tokens: int) -> None:
        use = self._use = await self._limiter.take(self.key, self._request, tokens)
        if not use.taken:
            raise LimitExceeded(_describe_refusal(self._limits, use, tokens), use.wait_s)

    def _have_all_ended(self) -> bool:
        return len(self._event.get("gen_ai.response.finish_reasons", ())) >= self._answers

    def _sum_used_tokens(self) -> int:
        return int(sum(self._event.get(f"gen_ai.usage.{name}", 0) for name in ("input_tokens", "output_tokens")))


def compute_token_bound(request: EngineRequest) -> int:
    """Return the most tokens that a request can use, prompt and answer together. A token has at least one byte."""
    match request.prompt:
        case TokenIds(ids):
            prompt = len(ids)
        case Text(text):
            prompt = TEMPLATE_TOKENS + _count_bytes(text)
        case Question(text, context):
            prompt = TEMPLATE_TOKENS + 2 * MESSAGE_TOKENS + _count_bytes(text) + _count_bytes(context)
        case Chat(messages):
            texts = (message.content + message.context for message in messages)
            prompt = TEMPLATE_TOKENS + sum(MESSAGE_TOKENS + _count_bytes(text) for text in texts)
    return prompt + request.max_new_tokens


def _count_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _describe_refusal(limits: KeyLimits, use: WindowUse, tokens: int) -> str:
    if limits.requests and use.requests >= limits.requests:
        limit, setting = f"{limits.requests} requests", "requests_per_minute"
    else:
        limit = f"{limits.tokens} tokens ({use.tokens} are used or reserved and this request may take {tokens})"
        setting = "tokens_per_minute"
    return (
        f"This key may use {limit} a minute; try again in {math.ceil(use.wait_s)} s. The key's own limit decides, else "
        f"the app's setting serving.{setting}."
    )
