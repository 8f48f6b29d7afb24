"""What one request asked and was answered: held until its event, its features and its trace are made, and no longer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmops.registry.version import Version
from serving.engines.base import Chat, FinishReason, Prompt, Question, Text, ToolCall, in_words


@dataclass(slots=True)
class Given:
    """One answer. Times are nanoseconds of `time.perf_counter_ns`; 0: it has not come so far."""

    prompt: Prompt
    version: Version
    begun: int = 0  #: by the engine
    first: int = 0  #: piece of the answer
    ended: int = 0
    texts: list[str] = field(default_factory=list)
    calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason | None = None  #: None: it is not complete

    @property
    def text(self) -> str:
        """All of its text that was given."""
        return "".join(self.texts)

    @property
    def in_words(self) -> str:
        """Its text and its calls."""
        return in_words(self.text, self.calls)

    @property
    def tools(self) -> Literal["", "shown", "called"]:
        """What part tools have in it: `called` by the answer or before it, or only `shown`."""
        chat = self.prompt if isinstance(self.prompt, Chat) else Chat(())
        called = self.calls or any(message.calls or message.call for message in chat.messages)
        return "called" if called else "shown" if chat.tools else ""


@dataclass(slots=True)
class Exchange:
    """The answers of one request, in their order."""

    given: list[Given] = field(default_factory=list)


def asked_of(prompt: Prompt) -> str:
    """What is asked: a question, the last message of a conversation, or a text.

    Empty of token ids, and where the last message is a tool's result or calls tools: nobody asks that.
    """
    match prompt:
        case Question() | Text():
            return prompt.text
        case Chat() if not (prompt.messages[-1].call or prompt.messages[-1].calls):
            return prompt.messages[-1].content
    return ""


def context_of(prompt: Prompt) -> str:
    """What the caller gives with it: the context of a question, or what was said before in a conversation.

    Not passages: what an erasure takes out of the index would stay in texts that no longer name the person.
    """
    match prompt:
        case Question():
            return prompt.context
        case Chat():
            before = prompt.messages[:-1] if asked_of(prompt) else prompt.messages
            return "\n".join(f"{message.role}: {message.in_words}" for message in before)
    return ""
