"""What one request asked and was answered: held until its event, its features and its trace are made, and no longer."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmops.registry.version import Version
from serving.engines.base import Chat, FinishReason, Prompt, Question, Text


@dataclass(slots=True)
class Given:
    """One answer. Times are nanoseconds of `time.perf_counter_ns`; 0: it has not come so far."""

    prompt: Prompt
    version: Version
    begun: int = 0  #: by the engine
    first: int = 0  #: piece of the answer
    ended: int = 0
    texts: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None  #: None: it is not complete

    @property
    def text(self) -> str:
        """All of it that was given."""
        return "".join(self.texts)


@dataclass(slots=True)
class Exchange:
    """The answers of one request, in their order."""

    given: list[Given] = field(default_factory=list)


def asked_of(prompt: Prompt) -> str:
    """What is asked: a question, the last message of a conversation, or a text; empty of token ids."""
    match prompt:
        case Question() | Text():
            return prompt.text
        case Chat():
            return prompt.messages[-1].content
    return ""


def context_of(prompt: Prompt) -> str:
    """What is given with it: the context of a question, or what was said before in a conversation."""
    match prompt:
        case Question():
            return prompt.context
        case Chat():
            return "\n".join(f"{message.role}: {message.content}" for message in prompt.messages[:-1])
    return ""
