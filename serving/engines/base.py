"""What an engine is: something that loads one model version and answers requests with it, token by token.

An engine works in threads of its own; the app lives in an event loop. A `Stream` is the one bridge between them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from serving.json_text import told

#: ended by itself or by a stop string, cut at `max_new_tokens`, cut by the guard, or it calls tools
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question in the one prompt format, as the model was trained on it."""

    text: str
    context: str = ""  #: that the caller gave
    passages: tuple[str, ...] = ()  #: that were found in the documents, the best first: its context, if they fit


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the caller is to make."""

    name: str
    arguments: str  #: a JSON object
    id: str = field(default_factory=lambda: secrets.token_hex(5)[:9])  #: as long as Mistral's chat template wants it


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    calls: tuple[ToolCall, ...] = ()  #: of an assistant's turn
    call: ToolCall | None = None  #: that a tool's turn is the result of

    @property
    def said(self) -> str:
        """All of it as one text, with arguments as JSON."""
        calls = [f"{call.name} {call.arguments}" for call in self.calls]
        return "\n".join([*([self.content] if self.content or not calls else []), *calls])

    @property
    def in_words(self) -> str:
        """All of it as one text without JSON."""
        return in_words(self.content, self.calls)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, for the model's chat template."""

    messages: tuple[Message, ...]
    tools: str = ""  #: that the model is shown, a JSON array in OpenAI's form; empty: none
    passages: tuple[str, ...] = ()  #: as a question's, for the user's last turn

    @property
    def knows_tools(self) -> bool:
        """Whether there are tools in it, or calls of some."""
        return bool(self.tools) or any(message.calls or message.call for message in self.messages)


@dataclass(frozen=True, slots=True)
class Text:
    """Text, taken as it stands, that the model continues."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A whole prompt as token ids; they are those of one version's tokenizer."""

    ids: tuple[int, ...]
    stored: bool = False  #: by the feature store, with the template's control tokens; a caller's ids have none


Prompt = Question | Chat | Text | TokenIds


def passages_of(prompt: Prompt) -> tuple[str, ...]:
    """What a prompt has of the documents."""
    return prompt.passages if isinstance(prompt, Question | Chat) else ()


@dataclass(frozen=True, slots=True)
class Calls:
    """How an answer may call the tools of its prompt."""

    most: int  #: calls
    forced: bool = (
        False  #: it is nothing but calls, after the request's schema, see `serving.answers.tools.calls_schema`
    )


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What an engine is to answer: one prompt, and how the answer is chosen and where it ends."""

    prompt: Prompt
    max_new_tokens: int
    temperature: float = 0.0  #: 0: greedy
    top_p: float = 1.0  #: sample from the likeliest tokens that together have this probability
    seed: int | None = None  #: makes sampling repeatable
    stop: tuple[str, ...] = ()  #: the answer ends before the first of these
    schema: str = ""  #: JSON schema that the answer follows, as `serving.answers.structured` takes it; empty: none
    logprobs: int | None = None  #: tell each token's log-probability and those of so many likeliest; None: tell none
    calls: Calls | None = None  #: None: no tool is called, whatever the prompt shows
    ignore_eos: bool = False  #: go on where the model ends its answer, for measuring; `stop` still ends it
    fill: bool = False  #: where the context has no room for `max_new_tokens`, fewer will do
    quote: str = ""  #: of the first passage of the prompt: the answer of a version that quotes, without its engine
    caller: str = ""  #: prefix of the key that asks; keys take turns, see `serving.models.turns`
    batch: str = ""  #: what all requests have in common that answer one HTTP request; empty: it is the only one


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, or one in whose place it is, and how likely the model found it there."""

    text: str
    data: bytes  #: of the text; it may be half a character
    logprob: float  #: natural logarithm of the probability that the model itself gives, however it was drawn
    top: tuple[TokenLogprob, ...] = ()  #: the likeliest in its place


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. The pieces of a stream add up to the answer; the last one has a finish reason."""

    text: str
    input_tokens: int  #: of the prompt
    output_tokens: int  #: so far, the end-of-sequence token not counted
    finish_reason: FinishReason | None = None
    tokens: tuple[TokenLogprob, ...] = ()  #: if they are asked for: those whose text ends in this piece
    calls: tuple[ToolCall, ...] = ()  #: all of the answer's, in its last piece
    passages: int = 0  #: how many of the prompt's the model was given, the first ones


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: FinishReason
    tokens: tuple[TokenLogprob, ...] = ()  #: if they are asked for
    calls: tuple[ToolCall, ...] = ()
    passages: int = 0  #: see `Chunk`


@dataclass(frozen=True, slots=True)
class Stats:
    """How an engine is doing."""

    alive: bool  #: whether it can still answer
    waiting: int  #: requests not begun
    running: int = 0  #: requests being answered


class Stream:
    """An answer in the making. Made in the event loop that reads it; an engine pushes to it from any thread.

    Iterate it for the chunks, or await `whole`. Leaving the iteration early, or `cancel`, tells the engine that nobody
    listens any more.

    Args:
        on_cancel: called once, in the event loop's thread, if the reader leaves before the end.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
        self._on_cancel = on_cancel
        self._ended = False
        self._begun_at = 0

    @property
    def begun_at(self) -> int:
        """When the engine began with the request, in nanoseconds of `time.perf_counter_ns`; 0: it still waits."""
        return self._begun_at

    def begin(self) -> None:
        """Say that the engine begins with the request; from any thread. Only the first time counts."""
        self._begun_at = self._begun_at or time.perf_counter_ns()

    def push(self, item: Chunk | Exception) -> None:
        """Add a chunk, or the error that ends the stream; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop was closed, so nobody reads this
            self._ended = True

    def cancel(self) -> None:
        """Say that nobody listens any more; after the end this does nothing."""
        if not self._ended:
            self._ended = True
            self._on_cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            while not self._ended:
                item = await self._items.get()
                if isinstance(item, Exception):
                    self._ended = True
                    raise item
                self._ended = item.finish_reason is not None
                yield item
        finally:
            self.cancel()

    async def whole(self) -> Answer:
        """Wait for the end and put the chunks together."""
        chunks: list[Chunk] = []
        async for chunk in self:
            chunks.append(chunk)
            if chunk.finish_reason:
                return whole(chunks)
        raise asyncio.CancelledError


def at_once(answer: Chunk) -> Stream:
    """The stream of an answer that is there already, whole."""
    stream = Stream(lambda: None)
    stream.begin()
    stream.push(answer)
    return stream


def whole(chunks: Sequence[Chunk]) -> Answer:
    """The answer that all chunks of a stream make."""
    last = chunks[-1]
    return Answer(
        "".join(chunk.text for chunk in chunks),
        last.input_tokens,
        last.output_tokens,
        last.finish_reason or "stop",
        tuple(token for chunk in chunks for token in chunk.tokens),
        last.calls,
        last.passages,
    )


def in_words(text: str, calls: Sequence[ToolCall]) -> str:
    """What is said and called, as one text: of each call its name, and a line for each value, see `json_text.told`."""
    called = [line for call in calls for line in (call.name, *told(call.arguments))]
    return "\n".join([*([text] if text or not calls else []), *called])


class Engine(Protocol):
    """One loaded model version. `load` and `close` block; `generate` is called in the event loop and does not."""

    def load(self) -> None:
        """Load the model and answer once, so that the first caller does not wait for a warm-up."""

    def generate(self, request: EngineRequest) -> Stream:
        """Put a request into the queue; its stream is told when it leaves that: `Stream.begin`.

        Raises:
            QueueFull: with the time after which to try again. Other errors come through the stream: `PromptRefused` if
                the prompt does not fit the model's context (with both counts), `EngineDied` if the engine fails.
        """

    def stats(self) -> Stats:
        """How it is doing now."""

    def close(self) -> None:
        """Answer what was accepted, then let go of the model."""
