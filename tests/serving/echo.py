"""An engine without a model that answers with the prompt, for tests of everything around an engine."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from serving.engines.base import Chat, Chunk, FinishReason, Prompt, Question, Text
from serving.engines.detokenize import StopFilter
from serving.engines.stepping import Job, Row, SteppingEngine
from serving.errors import NoLogprobs, PromptTooLong


@dataclass(slots=True, eq=False)
class EchoRow(Row):
    """A request with its words and the number of words in its answer so far."""

    words: list[str]
    stops: StopFilter
    output_tokens: int = field(default=0, init=False)


class EchoEngine(SteppingEngine[EchoRow]):
    """An engine that repeats the words of the prompt, or of a chat's last message. Each word is a chunk and a token.

    Args:
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        load_s: seconds that loading takes.
        token_s: seconds that each step takes, in which all running requests get a word.
        max_context: most words of a prompt; longer prompts are refused.
        load_error: the error that ends loading.
        fail_on: a word on which a request fails with a `RuntimeError`; other requests continue.
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
        self.may_step = threading.Event()  #: clear it to hold all steps up
        self.may_step.set()

    def die(self, error: Exception) -> None:
        """End the engine with this error, as if a step had raised it, from any thread."""
        with self._changed:
            self._error = error
            self._changed.notify()
        self.may_step.set()

    def _load(self) -> None:
        time.sleep(self._load_s)
        if self._load_error:
            raise self._load_error

    def _begin(self, job: Job) -> EchoRow:
        if job.request.logprobs:
            raise NoLogprobs
        words = _split_words(job.request.prompt)
        if len(words) > self._max_context:
            raise PromptTooLong(f"The prompt has {len(words)} tokens; the model takes {self._max_context}.")
        return EchoRow(job, words, StopFilter(job.request.stop))

    def _step(self, rows: list[EchoRow]) -> None:
        self.may_step.wait()
        if self._token_s:
            time.sleep(self._token_s)
        if not self._error:
            for row in rows:
                self._push_word(row)

    def _push_word(self, row: EchoRow) -> None:
        word = " " * (row.output_tokens > 0) + row.words[row.output_tokens] if row.words else ""
        if self._fail_on and word.strip() == self._fail_on:
            row.job.stream.push(RuntimeError(f"The word {self._fail_on!r} was said."))
            row.done = True
            return
        row.output_tokens += bool(row.words)
        text, stopped = row.stops.feed(word)
        ended = row.output_tokens == len(row.words)
        row.done = stopped or ended or row.output_tokens == row.job.request.max_new_tokens
        reason: FinishReason | None = ("stop" if stopped or ended else "length") if row.done else None
        if row.done and not stopped:
            text += row.stops.flush()
        row.job.stream.push(Chunk(text, len(row.words), row.output_tokens, reason))


def _split_words(prompt: Prompt) -> list[str]:
    if isinstance(prompt, Question | Text):
        return prompt.text.split()
    return prompt.messages[-1].content.split() if isinstance(prompt, Chat) else [str(n) for n in prompt.ids]
