"""What an engine is: something that loads one model version and answers requests with it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request wants."""

    prompt: str
    context: str
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: Literal["stop", "length"]  #: ended by itself, or cut at `max_new_tokens`


@dataclass(frozen=True, slots=True)
class Stats:
    """How an engine is doing."""

    alive: bool  #: whether it can still answer
    waiting: int  #: requests not begun


class Engine(Protocol):
    """One loaded model version. `load` and `close` block; `generate` does not."""

    def load(self) -> None:
        """Load the model and answer once, so that the first caller does not wait for a warm-up."""

    def generate(self, ask: Ask) -> Future[Answer]:
        """Put a request into the queue.

        Raises:
            QueueFull: with the time after which to try again. Other errors come through the future:
                `PromptRefused` if the prompt does not fit the model's context.
        """

    def stats(self) -> Stats:
        """How it is doing now."""

    def close(self) -> None:
        """Answer what waits, then let go of the model."""
