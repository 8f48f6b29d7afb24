"""The engine of a batch: a model folder on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops import prompts
from llmops.frame.errors import ArtifactError

if TYPE_CHECKING:
    from llmops.model.base.inference import InferenceModel


@dataclass(frozen=True, slots=True)
class RowReply:
    """The reply to one row."""

    answer: str = ""
    error: str = ""  #: why there is no answer; else empty
    version: str = ""
    from_documents: bool | None = None  #: see `GroundedEngine`; None: grounding is off
    sources: tuple[str, ...] = ()  #: where the passages stand that the answer rests on


class LocalEngine:
    """A servable folder on this machine, loaded at first use. It decodes greedily, longest prompts first.

    With `threshold`, a classifier gives a label from this probability on, in place of its own threshold.
    """

    grounded = False  #: True if replies say whether they are from documents

    def __init__(
        self, folder: Path, version: str, max_new_tokens: int, size: int, threshold: float | None = None
    ) -> None:
        #: name and settings; an interrupted job continues only with an engine of the same name
        self.name = f"{version} at {folder.absolute()}, {max_new_tokens} tokens, {size} at a time"
        if threshold is not None:
            self.name += f", labels from {threshold:g} on"
        self._folder, self.version, self._threshold = folder, version, threshold
        self.max_new_tokens, self._size = max_new_tokens, size

    @cached_property
    def _model(self) -> InferenceModel:
        from llmops.model.base.inference import open_model

        return open_model(self._folder, self._threshold)

    def answer(self, requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        """Answer non-empty (question, context) pairs, in their order; a classifier with labels, empty if not sure."""
        from llmops.model.base.classifier import Classifier

        if isinstance(self._model, Classifier):
            return [RowReply(answer=label, version=self.version) for label in self._model.give_labels(requests)]
        tokenizer, context_tokens = self._model.tokenizer, self._model.window
        replies: list[RowReply] = [RowReply()] * len(requests)
        ids: dict[int, list[int]] = {}
        for i, (question, context) in enumerate(requests):
            try:
                ids[i] = prompts.encode_question(tokenizer, question, context)
            except ArtifactError as error:
                replies[i] = RowReply(error=str(error), version=self.version)
                continue
            if len(ids[i]) + self.max_new_tokens > context_tokens:
                replies[i] = RowReply(
                    error=f"the prompt has {len(ids.pop(i))} tokens and the answer may take {self.max_new_tokens}; "
                    f"together the model takes {context_tokens}",
                    version=self.version,
                )
        order = sorted(ids, key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self._size):
            chosen = order[start : start + self._size]
            for i, reply in zip(chosen, self._generate([ids[i] for i in chosen]), strict=True):
                replies[i] = reply
        return replies

    def _generate(self, ids: list[list[int]]) -> list[RowReply]:
        """Answer prompts together. After a failure, halve them, so that only a faulty prompt gets the error."""
        from llmops.model.base.generate import decode

        model: Any = self._model
        try:
            return [
                RowReply(answer=decode(model.tokenizer, tokens), version=self.version)
                for tokens in model.generate(ids, self.max_new_tokens, len(ids))
            ]
        except (RuntimeError, ValueError, IndexError) as error:  # including out of memory
            if len(ids) == 1:
                return [RowReply(error=f"{type(error).__name__}: {error}", version=self.version)]
            half = len(ids) // 2
            return self._generate(ids[:half]) + self._generate(ids[half:])
