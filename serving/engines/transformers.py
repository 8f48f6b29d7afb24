"""The engine for models that neither OpenVINO nor vLLM runs: a servable folder and transformers' continuous batching.

transformers holds the running batch and the keys and values, in its own thread. This module has the queue, the sampling
and the text.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.frame.errors import ArtifactError
from llmops.model.gguf.process import OUT_OF_MEMORY
from serving.engines.answer_row import AnswerRow
from serving.engines.base import EngineStats
from serving.engines.stepping import Job, SteppingEngine, clear_frames
from serving.errors import EngineDied, NoLogprobs

if TYPE_CHECKING:
    from transformers.generation.continuous_batching import ContinuousBatchingManager
    from transformers.generation.continuous_batching.requests import GenerationOutput

    from llmops.model.base.folder import ServableFolder

log = logging.getLogger(__name__)

STEP_TOKENS = 256  #: most tokens that one step reads, prompts included
PAGE_TOKENS = 32  #: tokens whose keys and values are kept together


class TransformersEngine(SteppingEngine[AnswerRow]):
    """An engine with the model of one servable folder of any form. Its arguments are those of `OpenvinoEngine`."""

    def __init__(
        self, servable: Path, max_queue: int, max_batch: int, max_context: int = 2048, threads: int = 0
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._folder, self._max_context, self._threads = servable, max_context, threads
        self._request_count = 0
        self._manager: ContinuousBatchingManager | None = None
        self._model: ServableFolder | None = None

    def get_stats(self) -> EngineStats:
        """See `Engine`."""
        stats, manager = super().get_stats(), self._manager
        computing = manager is not None and manager.is_running() and not manager.background_thread_status.fatal_error
        return replace(stats, alive=stats.alive and computing)

    def _load(self) -> None:
        try:
            self._load_model()
        except Exception as error:
            if _is_out_of_memory(error):
                raise MemoryError(
                    f"There is not enough memory for {self._folder}: lower serving.max_batch or serving.max_context, "
                    "which decide the room for keys and values, or give the app more."
                ) from error
            raise

    def _load_model(self) -> None:
        try:
            import torch
            from peft import PeftModel
        except ModuleNotFoundError as error:
            raise ArtifactError(
                f"{self._folder} has no GGUF file, and {error.name}, which serves other forms, is not installed here. "
                "Use the image of docker/serving.Dockerfile, or set compress.full to `f16` and release again."
            ) from error
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        from llmops.model.base.folder import read_folder
        from llmops.model.base.load import load_servable
        from serving.engines.sampling import make_processors

        start = time.monotonic()
        if self._threads:
            torch.set_num_threads(self._threads)
        model, _ = load_servable(self._folder)
        if isinstance(model, PeftModel):
            model = model.get_base_model()  # PEFT has put the adapter's layers into it
        folder = self._model = read_folder(self._folder, self._max_context)
        batching = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=self._max_batch * ceil(folder.window / PAGE_TOKENS),
            max_batch_tokens=max(STEP_TOKENS, self._max_batch),
            max_requests_per_batch=self._max_batch,
            use_cuda_graph=False,  # Python samples the tokens
            use_async_batching=False,
            auto_switch_to_flash=False,  # it may be downloaded from the Hub
        )
        try:
            self._manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1), batching)
            self._manager.logit_processor = make_processors()
            self._manager.start()
            self._add_request([3, 4, 5], 4, [])  # tokens of every vocabulary; a model that cannot be batched fails here
            while not (output := self._wait_for_output()).is_finished():
                pass
            if output.error:
                raise RuntimeError(output.error)
        except Exception as error:
            reason = error.__cause__ or error  # of the manager's thread, if that has ended
            raise ArtifactError(
                f"The engine `transformers` cannot run {type(model).__name__} for many requests at once "
                f"({type(reason).__name__}: {reason}). Serve this model with the engine `vllm`."
            ) from error
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - start)

    def _begin(self, job: Job) -> AnswerRow:
        from serving.engines.sampling import Sampler

        model = cast("ServableFolder", self._model)
        if job.request.logprobs:
            raise NoLogprobs
        row = AnswerRow(job, model)
        plain = not job.request.temperature and model.repetition_penalty == 1
        sampler = {} if plain else {"sampler": Sampler(job.request, model.repetition_penalty)}
        row.request_id = int(
            self._add_request(row.prompt, job.request.max_new_tokens, sorted(model.end_ids), **sampler)
        )
        return row

    def _step(self, rows: list[AnswerRow]) -> None:
        by_id = {row.request_id: row for row in rows}
        outputs = cast("ContinuousBatchingManager", self._manager).output_router.output_queue
        for output in [self._wait_for_output(), *(outputs.get() for _ in range(outputs.qsize()))]:
            if not (row := by_id.get(int(output.request_id))) or row.done:
                continue
            if output.error:  # if a step fails, all requests get its error
                raise EngineDied from RuntimeError(output.error)
            row.finished = output.is_finished()
            row.push_tokens(output.generated_tokens[row.output_tokens :])

    def _release(self, row: AnswerRow) -> None:
        if not row.finished:
            cast("ContinuousBatchingManager", self._manager).cancel_request(str(row.request_id))

    def _unload(self) -> None:
        if self._manager:
            self._manager.stop(hard_stop=True)
            clear_frames(self._manager.background_thread_status.fatal_error)  # its thread has logged it
        self._manager = self._model = None

    def _add_request(self, ids: list[int], max_new_tokens: int, ends: list[int], **sampler: Any) -> str:
        manager, self._request_count = cast("ContinuousBatchingManager", self._manager), self._request_count + 1
        request_id = manager.add_request(
            ids, str(self._request_count), max_new_tokens, streaming=True, eos_token_id=ends or -1, **sampler
        )
        if request_id is None:
            raise EngineDied from manager.background_thread_status.fatal_error
        return request_id

    def _wait_for_output(self) -> GenerationOutput:
        """Return the next output of any request.

        Raises:
            EngineDied: if the manager has stopped.
        """
        manager = cast("ContinuousBatchingManager", self._manager)
        while True:
            failed = manager.background_thread_status.fatal_error
            if failed or not manager.is_running():
                raise EngineDied from failed
            if output := manager.get_result(timeout=0.2):
                return output


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return True if an error or one of its causes says that memory is missing."""
    return error is not None and (
        isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error))) or _is_out_of_memory(error.__cause__)
    )
