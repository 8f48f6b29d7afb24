"""A request in the running batch, whose answer comes token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from serving.engines.base import Chunk, FinishReason, Text, passages_of
from serving.engines.logprobs import Odds, Told
from serving.engines.stepping import Job, Row

if TYPE_CHECKING:
    from llmops.model.base.folder import Folder
    from serving.engines.detokenize import Writer


@dataclass(slots=True, eq=False)
class Answering(Row):
    """A row with its answer so far."""

    prompt: int  #: tokens of the prompt
    ends: Collection[int]  #: tokens that end the answer
    writer: Writer
    told: Told | None  #: if the caller asks for log-probabilities
    said: int = field(default=0, init=False)  #: tokens of the answer so far, the one that ends it not counted

    def say(self, tokens: Sequence[int], last: bool = False, odds: Sequence[Odds] = ()) -> None:
        """Take the next tokens of the answer, and push what text they complete.

        Args:
            tokens: what follows one that ends it, a stop string or the longest answer is left out.
            last: there are no more, whatever they are.
            odds: of each token, if the caller asks for log-probabilities.
        """
        text, reason = "", cast("FinishReason | None", None)
        for number, token in enumerate(tokens):
            if token in self.ends:
                reason = "stop"
                break
            self.said += 1
            if self.told:
                self.told.feed(token, odds[number])
            new, stopped = self.writer.feed(token)
            text += new
            reason = "stop" if stopped else "length" if self.said == self.job.request.max_new_tokens else None
            if reason:
                break
        if last and not reason:
            reason = "stop"
        if reason:
            self.done = True
            text += self.writer.end()
        if text or reason:
            told = self.told.leave(text, last=reason is not None) if self.told else ()
            given = len(passages_of(self.job.request.prompt))
            self.job.stream.push(Chunk(text, self.prompt, self.said, reason, told, passages=given))


def begun(job: Job, model: Folder) -> tuple[list[int], Collection[int], Writer, Told | None]:
    """The token ids of a request's prompt, the tokens that end its answer, what makes text of it, and what tells its
    tokens, if they are asked for; the request is fitted to the window.

    Raises:
        PromptRefused: see `ids_of`.
    """
    from serving.engines.detokenize import Writer
    from serving.engines.prompt import fitted

    ids, job.request = fitted(model.tokenizer, job.request, model.window)
    request, strip = job.request, not isinstance(job.request.prompt, Text)
    ends, stops = ((), ()) if request.ignore_eos else (model.ends, model.stops)
    told = None if request.logprobs is None else Told(model.tokenizer, strip)
    return ids, ends, Writer(model.tokenizer, (*stops, *request.stop), strip), told
