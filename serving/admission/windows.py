"""Windows: a log of each key's requests of the last minute with their tokens, in memory or in Redis.

It is a log and not a counter per minute: two counters would let twice the limit through around the turn of a minute,
and a weighted pair is right only for evenly spaced requests. The log is exact, and so is `Retry-After`. It costs one
entry per request of the last minute. A request counts from its admission, with all of its tokens.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from llmops.frame.errors import ConfigError
from llmops.frame.variables import fill_variables

log = logging.getLogger(__name__)

WINDOW_S = 60.0
TIMEOUT_S = 0.5  #: most time that a request waits for Redis
RETRY_S = 5.0  #: pause before Redis is asked again after a failure


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The requests and tokens that a key may use in a minute; 0: unlimited."""

    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class WindowUse:
    """The use of a key's window, after a request asked for room in it."""

    taken: bool  #: True if the request is in the window
    requests: int  #: requests in the window
    tokens: int  #: their tokens
    wait_s: float  #: if the request was not taken: seconds until there is room for it
    reset_s: float  #: seconds until the window is empty if no other request comes


class LocalWindows:
    """Windows in the memory of this process. All methods are called in the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logs: dict[str, OrderedDict[str, tuple[float, int]]] = {}  # request → time (s), tokens; oldest first
        self._sums: dict[str, int] = {}

    async def take(self, key: str, request: str, tokens: int, limits: KeyLimits) -> WindowUse:
        """Add a request with its tokens, or change the tokens of a known request, if the limits allow it.

        A request that the limits do not allow is not in the window afterwards.
        """
        now, entries = self._clock(), self._logs.setdefault(key, OrderedDict())
        while entries and (oldest := next(iter(entries.values())))[0] <= now - WINDOW_S:
            entries.popitem(last=False)
            self._sums[key] -= oldest[1]
        moment, before = entries.get(request, (now, 0))
        others = len(entries) - (request in entries)
        used = self._sums.get(key, 0) - before
        requests_over = others + 1 - limits.requests if limits.requests else 0
        tokens_over = used + tokens - limits.tokens if limits.tokens else 0
        if requests_over > 0 or tokens_over > 0:
            entries.pop(request, None)
            self._sums[key] = used
            wait_s = _find_room_at(list(entries.values()), requests_over, tokens_over) - now
            return WindowUse(False, others, used, max(wait_s, 0.0), self._compute_reset_s(entries, now))
        entries[request] = (moment, tokens)  # a known request keeps its place
        self._sums[key] = used + tokens
        return WindowUse(True, others + 1, used + tokens, 0.0, self._compute_reset_s(entries, now))

    async def settle(self, key: str, request: str, tokens: int) -> None:
        """Replace a request's tokens by the used ones, whatever the limits. Ignore a request outside the window."""
        entries = self._logs.get(key, OrderedDict())
        if request in entries:
            moment, before = entries[request]
            entries[request] = (moment, tokens)
            self._sums[key] += tokens - before

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def _compute_reset_s(self, entries: OrderedDict[str, tuple[float, int]], now: float) -> float:
        return entries[next(reversed(entries))][0] + WINDOW_S - now if entries else 0.0


def _find_room_at(entries: list[tuple[float, int]], requests_over: int, tokens_over: int) -> float:
    """Return the time at which enough of the oldest entries have left to make room for these requests and tokens."""
    for number, (moment, tokens) in enumerate(entries, start=1):
        tokens_over -= tokens
        if number >= requests_over and tokens_over <= 0:
            return moment + WINDOW_S
    return 0.0  # nobody asks for more than the limit, so the window is empty


# The same in Redis, where each script is atomic. A window is a sorted set (request → time in µs) and a hash (request →
# tokens, and their `sum`). Redis' clock counts, so replicas need no common time.
_TAKE = """
local now, window = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then local t = redis.call('TIME') now = t[1] * 1000000 + t[2] end
local request, tokens, most_requests, most_tokens = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local function drop(id)
  redis.call('HINCRBY', KEYS[2], 'sum', -tonumber(redis.call('HGET', KEYS[2], id) or 0))
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - window)) do drop(id) end
local moment = redis.call('ZSCORE', KEYS[1], request)
if moment then drop(request) end
local others, used = redis.call('ZCARD', KEYS[1]), tonumber(redis.call('HGET', KEYS[2], 'sum') or 0)
local requests_over = most_requests > 0 and others + 1 - most_requests or 0
local tokens_over = most_tokens > 0 and used + tokens - most_tokens or 0
local taken, wait, reset = 1, 0, 0
if requests_over > 0 or tokens_over > 0 then
  taken = 0
  local number = 0
  while number < others and (number < requests_over or tokens_over > 0) do
    local entry = redis.call('ZRANGE', KEYS[1], number, number, 'WITHSCORES')
    tokens_over = tokens_over - tonumber(redis.call('HGET', KEYS[2], entry[1]) or 0)
    wait, number = tonumber(entry[2]) + window - now, number + 1
  end
else
  others, used = others + 1, used + tokens
  redis.call('ZADD', KEYS[1], moment or now, request)
  redis.call('HSET', KEYS[2], request, tokens)
  redis.call('HINCRBY', KEYS[2], 'sum', tokens)
end
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if newest[2] then reset = tonumber(newest[2]) + window - now end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, math.ceil(window / 1000) + 1000) end
return {taken, others, used, wait, reset}
"""
_SETTLE = """
local before = redis.call('HGET', KEYS[1], ARGV[1])
if before then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'sum', ARGV[2] - before)
end
"""


class RedisWindows:
    """Windows in Redis, shared between replicas. An example of a URL: `redis://:${REDIS_PASSWORD}@host:6379/1`.

    Raises:
        ConfigError: if a variable is not set.
    """

    def __init__(
        self, url: str, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] | None = None
    ) -> None:
        def read_variable(name: str) -> str:
            if name not in environ:
                raise ConfigError(f"serving.limits needs ${{{name}}}; set {name} in the environment.")
            return environ[name]

        # One retry without a pause: after a restart of Redis, only the use of a kept connection shows that it is dead.
        self._redis = redis.Redis.from_url(
            fill_variables(url, read_variable),
            retry=Retry(NoBackoff(), 1),
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
        )
        self._clock = clock
        self._take, self._settle = self._redis.register_script(_TAKE), self._redis.register_script(_SETTLE)

    async def take(self, key: str, request: str, tokens: int, limits: KeyLimits) -> WindowUse:
        """See `LocalWindows`. Raise RedisError if Redis does not answer."""
        now: Any = round(self._clock() * 1e6) if self._clock else ""
        arguments = [now, round(WINDOW_S * 1e6), request, tokens, limits.requests, limits.tokens]
        answer = await cast(Any, self._take)(_name_keys(key), arguments)
        taken, requests, used, wait, reset = (int(number) for number in answer)
        return WindowUse(bool(taken), requests, used, max(wait, 0) / 1e6, reset / 1e6)

    async def settle(self, key: str, request: str, tokens: int) -> None:
        """See `LocalWindows`. Raise RedisError if Redis does not answer."""
        await cast(Any, self._settle)(_name_keys(key)[1:], [request, tokens])

    async def close(self) -> None:
        """See `LocalWindows`."""
        await self._redis.aclose()


def _name_keys(key: str) -> list[str]:
    return [f"llmops:{{{key}}}:requests", f"llmops:{{{key}}}:tokens"]  # braces put both on one node of a cluster


class SharedWindows:
    """Windows in Redis; while Redis does not answer, each process counts by itself.

    A key may then use its limits once in each replica. After a failure Redis is asked again after `RETRY_S`.
    `on_change` is called when Redis stops answering, with the reason, and when it answers again, with "".
    """

    def __init__(
        self, shared: Windows, on_change: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared, self._own, self._on_change, self._clock = shared, LocalWindows(clock), on_change, clock
        self._down, self._retry_at = False, -math.inf

    async def take(self, key: str, request: str, tokens: int, limits: KeyLimits) -> WindowUse:
        """See `LocalWindows`."""
        if self._clock() >= self._retry_at:
            try:
                use = await self._shared.take(key, request, tokens, limits)
            except (RedisError, OSError) as error:
                self._report_outage(error)
            else:
                if self._down:
                    self._down = False
                    log.warning("Redis answers again; it counts the limits")
                    self._on_change("")
                return use
        return await self._own.take(key, request, tokens, limits)

    async def settle(self, key: str, request: str, tokens: int) -> None:
        """See `LocalWindows`. If Redis fails, the reservation stays until it leaves the window."""
        await self._own.settle(key, request, tokens)
        if self._clock() >= self._retry_at:
            try:
                await self._shared.settle(key, request, tokens)
            except (RedisError, OSError) as error:
                self._report_outage(error)

    async def close(self) -> None:
        """See `LocalWindows`."""
        await self._shared.close()

    def _report_outage(self, error: Exception) -> None:
        self._retry_at = self._clock() + RETRY_S
        if not self._down:
            self._down, reason = True, f"{type(error).__name__}: {error}"
            log.warning("Redis does not answer (%s); this process counts limits by itself", reason)
            self._on_change(reason)


Windows = LocalWindows | RedisWindows | SharedWindows
