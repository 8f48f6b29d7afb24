"""A request in the running batch, whose answer comes token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.engines.base import Chunk, EngineRequest, FinishReason, Question, Text
from serving.engines.stepping import Row

if TYPE_CHECKING:
    from llmops.model.base.folder import Folder
    from serving.engines.detokenize import Writer

WARM_UP = EngineRequest(Question("Hello"), 4)


@dataclass(slots=True, eq=False)
class Answering(Row):
    """A row with its answer so far; making it raises `PromptRefused` (see `ids_of`)."""

    model: Folder
    prompt: list[int] = field(init=False)
    writer: Writer = field(init=False)
    name: int = field(default=-1, init=False)  #: of the request where the model is
    said: int = field(default=0, init=False)  #: tokens of the answer so far, the one that ends it not counted
    ended: bool = field(default=False, init=False)  #: whether nothing more comes from the model

    def __post_init__(self) -> None:
        """Read the prompt."""
        from serving.engines.detokenize import Writer
        from serving.engines.prompt import ids_of

        request, model = self.job.request, self.model
        self.prompt = ids_of(model.tokenizer, request, model.window)
        self.writer = Writer(model.tokenizer, (*model.stops, *request.stop), not isinstance(request.prompt, Text))

    def say(self, tokens: Sequence[int]) -> None:
        """Push the text that the next tokens complete, up to whatever ends the answer."""
        text, reason = "", None
        for token in tokens:
            if token in self.model.ends:
                reason = "stop"
                break
            self.said += 1
            more, stopped = self.writer.feed(token)
            text += more
            if stopped or self.said == self.job.request.max_new_tokens:
                reason = "stop" if stopped else "length"
                break
        finish: FinishReason | None = reason or ("stop" if self.ended else None)  # type: ignore[assignment]
        if finish:
            self.done = True
            text += self.writer.end()
        if text or finish:
            self.job.stream.push(Chunk(text, len(self.prompt), self.said, finish))
