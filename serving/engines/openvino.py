"""The engine for CPUs: a servable folder in GGUF, answered by OpenVINO GenAI's continuous batching.

The model is in a process of its own, see `llmops.model.gguf.worker`; here are the queue, the tokenizer and the text.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import ArtifactError
from llmops.model.gguf.grammar import SchemaRefused, SchemasFull
from llmops.model.gguf.pipeline import FILE, Precision, is_gguf
from llmops.model.gguf.process import SILENT_S, Worker, run_requests
from serving.engines.answering import Answering, begun
from serving.engines.base import EngineRequest, Question, Stats
from serving.engines.logprobs import Odds
from serving.engines.stepping import Job, SteppingEngine
from serving.errors import EngineDied, NotOffered, QueueFull

if TYPE_CHECKING:
    from llmops.model.base.folder import Folder

log = logging.getLogger(__name__)

LEAST_TOP_P = 1e-6  #: below it OpenVINO takes none
_FULL_S = 5  #: after which somebody may try again whose schema finds no room
WARM_UP = EngineRequest(Question("Hello"), 4)


@dataclass(slots=True, eq=False)
class Asked(Answering):
    """A request in the batch."""

    name: int
    ended: bool = field(default=False, init=False)  #: whether the worker has said its last token


class OpenvinoEngine(SteppingEngine[Asked]):
    """Answers with the model of one servable folder.

    Args:
        servable: the folder, with `model.gguf`.
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        max_context: most tokens of one, prompt and answer together; fewer if the model takes fewer. Keys and values of
            `max_batch` times as many have room in memory, which is taken as it is needed.
        threads: that compute; 0: one per core that this process may use.
        precision: `f32` or `bf16`, see `llmops.model.gguf.pipeline.PRECISIONS`.
    """

    structured = True
    alternatives = False

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
        self._threads, self._precision = threads, precision
        self._worker: Worker | None = None
        self._model: Folder | None = None  # set once it is loaded

    def stats(self) -> Stats:
        """See `Engine`."""
        known = super().stats()
        ended = self._worker is None or self._worker.process.poll() is not None
        return Stats(known.alive and not ended, known.waiting, known.running)

    def _load(self) -> None:
        from llmops.model.base.folder import read_folder
        from serving.engines.prompt import ids_of

        start = time.monotonic()
        if not is_gguf(self._folder):
            raise ArtifactError(
                f"The engine `openvino` reads models in GGUF, and {self._folder} has no {FILE}. Serve this version "
                "with the engine `transformers` or `vllm`."
            )
        model = self._model = read_folder(self._folder, self._max_context)
        worker = self._worker = Worker(
            self._folder,
            batch=self._max_batch,
            tokens=model.window,
            threads=self._threads,
            precision=self._precision,
            share_prefixes=True,
        )
        try:
            worker.wait_loaded(lambda: self._closed)
            ids, tokens = ids_of(model.tokenizer, WARM_UP, model.window), WARM_UP.max_new_tokens
            some = [(ids * n)[: model.window - tokens] for n in (1, 2, 4, 8)]
            for batch in (1, min(len(some), self._max_batch)):  # each shape is slow once, and a canary is timed
                run_requests(worker, some, {"max_new_tokens": tokens, "ignore_eos": True}, batch)
        except TimeoutError as error:
            raise EngineDied from error
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - start)

    def _begin(self, job: Job) -> Asked:
        model = cast("Folder", self._model)
        ids, ends, writer, told = begun(job, model)
        request = job.request
        name = cast("Worker", self._worker).ask(ids, ends, self._settings(request), request.schema)
        return Asked(job, len(ids), ends, writer, told, name)

    def _step(self, rows: list[Asked]) -> None:
        """Take in what the worker has said since, at least one line."""
        worker = cast("Worker", self._worker)
        known = {row.name: row for row in rows}
        try:
            heard = worker.hear(SILENT_S)
        except TimeoutError as error:
            worker.process.kill()
            raise EngineDied from error
        except (ArtifactError, MemoryError) as error:
            raise EngineDied from error
        for name, said in heard:
            if (row := known.get(name)) and not row.done:
                row.ended = said.ended
                if said.why:
                    row.done = True
                    row.job.stream.push(_refusal(said.why))
                else:
                    # the last one may be a token that the file itself has for an end
                    row.say(said.ids, last=said.ended, odds=[Odds(log) for log in said.logs])

    def _leave(self, row: Asked) -> None:
        if not row.ended:
            cast("Worker", self._worker).leave(row.name)

    def _unload(self) -> None:
        self._model = None
        if self._worker:
            self._worker.close()

    def _settings(self, request: EngineRequest) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_new_tokens": request.max_new_tokens}
        if request.logprobs is not None:
            settings["logprobs"] = 1
        if request.ignore_eos:
            settings["ignore_eos"] = True
        if (penalty := cast("Folder", self._model).repetition_penalty) != 1:
            settings["repetition_penalty"] = penalty
        if request.temperature:
            seed = secrets.randbits(31) if request.seed is None else request.seed
            settings |= {
                "do_sample": True,
                "temperature": request.temperature,
                "top_p": max(request.top_p, LEAST_TOP_P),
                "rng_seed": seed,
            }
        return settings


def _refusal(why: str) -> Exception:
    """The error for what the worker says of a request."""
    kind, _, reason = why.partition(": ")
    if kind == SchemasFull.__name__:
        return QueueFull(0, _FULL_S)
    if kind == SchemaRefused.__name__:
        return NotOffered(f"The engine does not take the schema in response_format: {reason}.")
    return RuntimeError(f"OpenVINO does not take this request: {why}")
