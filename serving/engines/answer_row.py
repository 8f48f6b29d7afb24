"""A request in the running batch whose answer comes token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from serving.engines.base import Chunk, EngineRequest, FinishReason, Question, ScoredText, Text
from serving.engines.stepping import Row

if TYPE_CHECKING:
    from llmops.model.base.folder import ServableFolder
    from serving.engines.detokenize import Detokenizer

WARM_UP = EngineRequest(Question("Hello"), 4)
MIN_LOGPROB = -9999.0  #: JSON has no infinity; OpenAI writes this number for it


@dataclass(slots=True, eq=False)
class AnswerRow(Row):
    """A row with its answer so far. Its creation raises `PromptRefused`, see `encode_prompt`."""

    model: ServableFolder
    prompt: list[int] = field(init=False)
    detokenizer: Detokenizer = field(init=False)
    request_id: int = field(default=-1, init=False)  #: the request's id in the process or thread of the model
    output_tokens: int = field(default=0, init=False)  #: tokens of the answer so far, without the end token
    finished: bool = field(default=False, init=False)  #: True if the model sends no more tokens
    scored: list[ScoredText] = field(default_factory=list, init=False)  #: tokens for the next chunk

    def __post_init__(self) -> None:
        """Read the prompt."""
        from serving.engines.detokenize import Detokenizer
        from serving.engines.prompt import encode_prompt

        request, model = self.job.request, self.model
        self.prompt = encode_prompt(model.tokenizer, request, model.window)
        stops = (*model.stop_strings, *request.stop)
        self.detokenizer = Detokenizer(model.tokenizer, stops, not isinstance(request.prompt, Text))

    def push_tokens(self, tokens: Sequence[int], logprobs: Sequence[float] = ()) -> None:
        """Push the text that the next tokens complete, up to the end of the answer."""
        text, reason = "", None
        for token, logprob in zip_longest(tokens, logprobs):
            if token in self.model.end_ids:
                reason = "stop"
                break
            self.output_tokens += 1
            more, stopped = self.detokenizer.feed(token)
            text += more
            if logprob is not None:
                self.scored.append(ScoredText(more, max(logprob, MIN_LOGPROB)))
            if stopped or self.output_tokens == self.job.request.max_new_tokens:
                reason = "stop" if stopped else "length"
                break
        finish: FinishReason | None = reason or ("stop" if self.finished else None)  # type: ignore[assignment]
        if finish:
            self.done = True
            rest = self.detokenizer.flush()
            text += rest
            if rest and self.scored:
                self.scored[-1] = self.scored[-1]._replace(text=self.scored[-1].text + rest)
        if text or finish:
            chunk = Chunk(text, len(self.prompt), self.output_tokens, finish, tuple(self.scored))
            self.job.stream.push(chunk)
            self.scored.clear()
