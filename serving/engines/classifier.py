"""The engine of an encoder that classifies: its answer to a text is a label, or nothing if no label is sure enough.

The texts that wait are computed together. With `logprobs` the answer has all labels, the likeliest first.
The finish reason `length` says that the text was cut.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from serving.engines.answer_row import MIN_LOGPROB, WARM_UP
from serving.engines.base import Chat, Chunk, EngineRequest, Question, ScoredText, Text
from serving.engines.stepping import Job, Row, SteppingEngine
from serving.errors import PromptRefused

if TYPE_CHECKING:
    from llmops.model.base.classifier import Classifier

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class TextRow(Row):
    """A text that waits for its label."""

    ids: list[int]
    cut: bool  #: the model reads only the beginning of the text


class ClassifierEngine(SteppingEngine[TextRow]):
    """An engine with the classifier of one servable folder. The first arguments are those of `OpenvinoEngine`.

    `threshold` takes the place of the version's own: see `serving.classify_threshold`.
    """

    def __init__(
        self,
        servable: Path,
        max_queue: int,
        max_batch: int,
        max_context: int = 0,
        threads: int = 0,
        threshold: float | None = None,
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._folder, self._max_context, self._threads, self._threshold = servable, max_context, threads, threshold
        self._model: Classifier | None = None

    def _load(self) -> None:
        from llmops.model.base.classifier import Classifier

        start = time.monotonic()
        self._model = Classifier(self._folder, self._max_context, self._threads, threshold=self._threshold)
        self._model.compute_scores([self._encode(WARM_UP)[0]])
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - start)

    def _begin(self, job: Job) -> TextRow:
        return TextRow(job, *self._encode(job.request))

    def _step(self, rows: list[TextRow]) -> None:
        model = cast("Classifier", self._model)
        found = model.calibration.compute_probabilities(model.compute_scores([row.ids for row in rows]))
        for row, probabilities in zip(rows, found, strict=True):
            order = np.argsort(-probabilities, kind="stable")
            sure = model.calibration.is_sure(probabilities[order[0]])
            scored: tuple[ScoredText, ...] = ()
            if row.job.request.logprobs:
                logs = np.log(np.maximum(probabilities, np.exp(-700.0)))
                scored = tuple(ScoredText(model.format.labels[n], max(float(logs[n]), MIN_LOGPROB)) for n in order)
            row.done = True
            label = model.format.labels[order[0]] if sure else ""
            row.job.stream.push(Chunk(label, len(row.ids), 1, "length" if row.cut else "stop", scored))

    def _unload(self) -> None:
        self._model = None

    def _encode(self, request: EngineRequest) -> tuple[list[int], bool]:
        prompt = request.prompt
        if isinstance(prompt, Question):
            text = prompt.text, prompt.context
        elif isinstance(prompt, Chat):
            text = prompt.messages[-1].content, ""
        elif isinstance(prompt, Text):
            text = prompt.text, ""
        else:
            raise PromptRefused("A classifier reads texts; send the text instead of token ids.")
        return cast("Classifier", self._model).format.encode([text])[0]
