"""The engine for CPUs: a servable folder in GGUF, answered by OpenVINO GenAI's continuous batching.

The model runs in its own process, see `llmops.model.gguf.worker`. This module has the queue, the tokenizer and the
text.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.frame.errors import ArtifactError
from llmops.model.gguf.grammars import GrammarError
from llmops.model.gguf.process import Worker, run_requests
from llmops.model.gguf.worker import GGUF_FILE, Precision, is_gguf
from serving.engines.answer_row import WARM_UP, AnswerRow
from serving.engines.base import EngineRequest, EngineStats
from serving.engines.stepping import Job, SteppingEngine
from serving.errors import SchemaRefused

if TYPE_CHECKING:
    from llmops.model.base.folder import ServableFolder

log = logging.getLogger(__name__)

MIN_TOP_P = 1e-6  #: OpenVINO refuses smaller ones


class OpenvinoEngine(SteppingEngine[AnswerRow]):
    """An engine with the model of one servable folder.

    Args:
        servable: the folder, with `model.gguf`.
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        max_context: most tokens of a request, prompt and answer together; fewer if the model's context is smaller.
            Memory for the keys and values of `max_batch` times as many is allocated as needed.
        threads: threads that compute; 0: one per core that this container may use.
        precision: see `llmops.model.gguf.worker.PRECISIONS`.
    """

    follows_schemas = True

    def __init__(
        self,
        servable: Path,
        max_queue: int,
        max_batch: int,
        max_context: int = 2048,
        threads: int = 0,
        precision: Precision = "f32",
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._folder, self._max_context = servable, max_context
        self._settings: dict[str, Any] = {"batch": max_batch, "threads": threads, "precision": precision}
        self._worker: Worker | None = None
        self._model: ServableFolder | None = None

    def get_stats(self) -> EngineStats:
        """See `Engine`."""
        stats, worker = super().get_stats(), self._worker
        return replace(stats, alive=stats.alive and worker is not None and worker.process.poll() is None)

    def _load(self) -> None:
        from llmops.model.base.folder import read_folder
        from serving.engines.prompt import encode_prompt

        start = time.monotonic()
        if not is_gguf(self._folder):
            raise ArtifactError(
                f"The engine `openvino` reads models in GGUF, and {self._folder} has no {GGUF_FILE}. Set "
                "serving.engine to `auto`, `transformers` or `vllm`."
            )
        model = self._model = read_folder(self._folder, self._max_context)
        self._worker = Worker(self._folder, tokens=model.window, **self._settings)
        ids = encode_prompt(model.tokenizer, WARM_UP, model.window)
        settings = {"max_new_tokens": WARM_UP.max_new_tokens, "ignore_eos": True}
        for batch in (1, self._max_batch):  # the first batch of each size is slow
            run_requests(self._worker, [ids] * min(batch, 4), settings, batch)
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - start)

    def _begin(self, job: Job) -> AnswerRow:
        model, worker = cast("ServableFolder", self._model), cast("Worker", self._worker)
        row = AnswerRow(job, model)
        settings = _format_settings(job.request, model.repetition_penalty)
        row.request_id = worker.start_request(row.prompt, model.end_ids, settings, job.request.schema)
        return row

    def _step(self, rows: list[AnswerRow]) -> None:
        by_id = {row.request_id: row for row in rows}
        for request_id, output in cast("Worker", self._worker).receive():
            if (row := by_id.get(request_id)) and not row.done:
                row.finished = output.ended
                if output.error:
                    row.done = True
                    row.job.stream.push(_make_error(output.error))
                else:
                    row.push_tokens(output.ids, output.log_probs if row.job.request.logprobs else ())

    def _release(self, row: AnswerRow) -> None:
        if not row.finished:
            cast("Worker", self._worker).cancel_request(row.request_id)

    def _unload(self) -> None:
        self._model = None
        if self._worker:
            self._worker.close()


def _make_error(message: str) -> Exception:
    kind, _, reason = message.partition(": ")
    if kind == GrammarError.__name__:
        return SchemaRefused(f"the engine does not take this schema ({reason})")
    return RuntimeError(f"OpenVINO refuses this request: {message}")


def _format_settings(request: EngineRequest, repetition_penalty: float) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "max_new_tokens": request.max_new_tokens,
        "repetition_penalty": repetition_penalty,
        "logprobs": int(request.logprobs),
    }
    if request.temperature:
        seed = secrets.randbits(31) if request.seed is None else request.seed
        settings |= {
            "do_sample": True,
            "temperature": request.temperature,
            "top_p": max(request.top_p, MIN_TOP_P),
            "rng_seed": seed,
        }
    return settings
