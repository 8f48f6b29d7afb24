"""Engines: an engine loads one model version and answers requests with it, token by token.

An engine works in its own threads; the app runs in an event loop. A `Stream` is the only bridge between them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

#: ended by the model or a stop string, cut at `max_new_tokens`, or cut by the guard
FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, for the prompt format that the model was trained on."""

    text: str
    context: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    A message of the role `tools` tells the model its functions, one of the role `tool` has a function's result.
    """

    role: Literal["system", "user", "assistant", "tools", "tool"]
    content: str
    context: str = ""  #: text that the answer to a user's turn should rest on


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, for the model's chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text that the model continues, without a prompt format."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A whole prompt as token ids of one version's tokenizer."""

    ids: tuple[int, ...]
    stored: bool = False  #: True if they come from the feature store; only then they may have control tokens


Prompt = Question | Chat | Text | TokenIds


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request to an engine: one prompt, and the settings of its answer."""

    prompt: Prompt
    max_new_tokens: int
    temperature: float = 0.0  #: 0: greedy
    top_p: float = 1.0  #: sample from the likeliest tokens that together have this probability
    seed: int | None = None  #: makes sampling repeatable
    stop: tuple[str, ...] = ()  #: the answer ends before the first of these
    schema: str = ""  #: the JSON schema, or the structural tag of XGrammar, that the answer follows; empty: free text
    key: str = ""  #: the prefix of the caller's key; in the queue, keys take turns
    logprobs: bool = False  #: the answer comes with the log-probabilities of its tokens


class ScoredText(NamedTuple):
    """The text that a token completes, and the token's log-probability."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. Only the last piece has a finish reason."""

    text: str
    input_tokens: int  #: tokens of the prompt
    output_tokens: int  #: tokens of the answer so far, without the end-of-sequence token
    finish_reason: FinishReason | None = None
    logprobs: tuple[ScoredText, ...] = ()  #: of the tokens since the last piece, if the request asks for them


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: FinishReason
    logprobs: tuple[ScoredText, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The state of an engine."""

    alive: bool  #: True if it can still answer
    waiting: int  #: requests that have not begun
    running: int = 0  #: requests that are being answered


class Stream:
    """The chunks of one answer. An event loop creates it and reads it; an engine pushes to it from any thread.

    Iterate it for the chunks, or await `collect`. If the iteration ends early, or `cancel` is called, the engine gives
    the answer up.

    Args:
        on_cancel: called once, in the event loop's thread, if the reader leaves before the end.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
        self._peeked: Chunk | Exception | None = None
        self._on_cancel = on_cancel
        self._ended = False
        self._begun_at = 0

    @property
    def begun_at(self) -> int:
        """Return the time when the request left the queue, by `time.perf_counter_ns`; 0 if it still waits."""
        return self._begun_at

    def begin(self) -> None:
        """Record that the request has left the queue, from any thread. Only the first call counts."""
        self._begun_at = self._begun_at or time.perf_counter_ns()

    def push(self, item: Chunk | Exception) -> None:
        """Add a chunk, or the error that ends the stream, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop is closed, so nobody reads this
            self._ended = True

    def cancel(self) -> None:
        """Give the answer up. After its end this does nothing."""
        if not self._ended:
            self._ended = True
            self._on_cancel()

    async def peek(self) -> Chunk | Exception:
        """Wait for the next chunk, or the error that ends the stream, and return it. It stays for the reader."""
        if self._peeked is None:
            self._peeked = await self._items.get()
        return self._peeked

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            while not self._ended:
                item, self._peeked = await self.peek(), None
                if isinstance(item, Exception):
                    self._ended = True
                    raise item
                self._ended = item.finish_reason is not None
                yield item
        finally:
            self.cancel()

    async def collect(self) -> Answer:
        """Return the complete answer, once it has ended."""
        texts: list[str] = []
        logprobs: list[ScoredText] = []
        async for chunk in self:
            texts.append(chunk.text)
            logprobs += chunk.logprobs
            if chunk.finish_reason:
                return Answer(
                    "".join(texts), chunk.input_tokens, chunk.output_tokens, chunk.finish_reason, tuple(logprobs)
                )
        raise asyncio.CancelledError


class Engine(Protocol):
    """One loaded model version. `load` and `close` block. `generate` runs in the event loop and does not block."""

    def load(self) -> None:
        """Load the model and answer once, so that the first caller does not wait for a warm-up."""

    def generate(self, request: EngineRequest) -> Stream:
        """Put a request into the queue. When the request leaves the queue, the engine calls `Stream.begin`.

        Raises:
            QueueFull, QueueShareFull: with the seconds to wait. Other errors come through the stream: `PromptRefused`
                if the prompt does not fit the model's context (with both counts), `EngineDied` if the engine fails.
        """

    def get_stats(self) -> EngineStats:
        """Return the engine's present state."""

    def close(self) -> None:
        """Answer all accepted requests, then unload the model."""
