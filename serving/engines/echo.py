"""An engine without a model, which answers with the prompt: for tests of everything around it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from serving.engines.base import Chat, Chunk, FinishReason, Prompt, Question, Text
from serving.engines.ends import Stops
from serving.engines.stepping import Job, Row, SteppingEngine
from serving.errors import PromptTooLong


@dataclass(slots=True, eq=False)
class EchoRow(Row):
    """A request with its words, and how many of them were answered."""

    words: list[str]
    stops: Stops
    said: int = field(default=0, init=False)


class EchoEngine(SteppingEngine[EchoRow]):
    """Answers with the words of the prompt (of a chat's last message), a chunk a word; a word counts as a token.

    Args:
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        load_s: how long loading takes, in seconds.
        token_s: how long each step takes, in which all running requests get a word.
        max_context: most words of a prompt; longer ones are refused.
        load_error: what loading ends with.
        fail_on: a word; a request that comes to it fails with a `RuntimeError`, others go on.
    """

    def __init__(
        self,
        max_queue: int = 64,
        max_batch: int = 16,
        load_s: float = 0.0,
        token_s: float = 0.0,
        max_context: int = 1000,
        load_error: Exception | None = None,
        fail_on: str = "",
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._load_s, self._token_s, self._max_context = load_s, token_s, max_context
        self._load_error, self._fail_on = load_error, fail_on
        self.going = threading.Event()  #: while it is cleared, no step is taken
        self.going.set()

    def die(self, error: Exception) -> None:
        """End the engine with this error, as if a step had raised it; from any thread."""
        with self._changed:
            self._error = error
            self._changed.notify()
        self.going.set()

    def _load(self) -> None:
        time.sleep(self._load_s)
        if self._load_error:
            raise self._load_error

    def _begin(self, job: Job) -> EchoRow:
        words = _words(job.request.prompt)
        if len(words) > self._max_context:
            raise PromptTooLong(f"The prompt has {len(words)} tokens; the model takes {self._max_context}.")
        return EchoRow(job, words, Stops(job.request.stop))

    def _step(self, rows: list[EchoRow]) -> None:
        self.going.wait()
        if self._token_s:
            time.sleep(self._token_s)
        if not self._error:
            for row in rows:
                self._say(row)

    def _say(self, row: EchoRow) -> None:
        word = " " * (row.said > 0) + row.words[row.said] if row.words else ""
        if self._fail_on and word.strip() == self._fail_on:
            row.job.stream.push(RuntimeError(f"The word {self._fail_on!r} was said."))
            row.done = True
            return
        row.said += bool(row.words)
        text, stopped = row.stops.feed(word)
        ended = row.said == len(row.words)
        row.done = stopped or ended or row.said == row.job.request.max_new_tokens
        reason: FinishReason | None = ("stop" if stopped or ended else "length") if row.done else None
        if row.done and not stopped:
            text += row.stops.rest()
        row.job.stream.push(Chunk(text, len(row.words), row.said, reason))


def _words(prompt: Prompt) -> list[str]:
    if isinstance(prompt, Question | Text):
        return prompt.text.split()
    return prompt.messages[-1].content.split() if isinstance(prompt, Chat) else [str(n) for n in prompt.ids]
