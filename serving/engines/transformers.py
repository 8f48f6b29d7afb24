"""The engine for what neither OpenVINO nor vLLM runs: a servable folder, answered by transformers' continuous batching.

transformers keeps the running batch and the keys and values, in a thread of its own; here are the queue, the choice of
each token and the text.
"""

from __future__ import annotations

import gc
import logging
import time
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import ArtifactError
from serving.engines.answering import Answering
from serving.engines.base import Stats
from serving.engines.stepping import Job, SteppingEngine
from serving.errors import EngineDied

if TYPE_CHECKING:
    from transformers.generation.continuous_batching import ContinuousBatchingManager
    from transformers.generation.continuous_batching.requests import GenerationOutput

    from llmops.model.base.folder import Folder

log = logging.getLogger(__name__)

STEP_TOKENS = 256  #: most tokens that one step reads, of prompts above all
PAGE = 32  #: tokens whose keys and values are kept together


class TransformersEngine(SteppingEngine[Answering]):
    """Answers with the model of one servable folder, of any form; its arguments are those of `OpenvinoEngine`."""

    def __init__(
        self, servable: Path, max_queue: int, max_batch: int, max_context: int = 2048, threads: int = 0
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._folder, self._max_context, self._threads = servable, max_context, threads
        self._names = 0
        self._manager: ContinuousBatchingManager | None = None
        self._model: Folder | None = None

    def stats(self) -> Stats:
        """See `Engine`."""
        known, manager = super().stats(), self._manager
        computing = manager is not None and manager.is_running() and not manager.background_thread_status.fatal_error
        return Stats(known.alive and computing, known.waiting, known.running)

    def _load(self) -> None:
        try:
            import torch
            from peft import PeftModel
        except ModuleNotFoundError as error:
            raise ArtifactError(
                f"{self._folder} is no GGUF file, and {error.name}, which serves other forms, is not installed here. "
                "Use the image of docker/serving.Dockerfile, or set compress.full to `f16` and release again."
            ) from error
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        from llmops.model.base.folder import read_folder
        from llmops.model.base.load import load_servable
        from serving.engines.sampling import chosen

        start = time.monotonic()
        if self._threads:
            torch.set_num_threads(self._threads)
        model, _ = load_servable(self._folder)
        if isinstance(model, PeftModel):
            model = model.get_base_model()  # the adapter's layers are in it by now
        known = self._model = read_folder(self._folder, self._max_context)
        room = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=self._max_batch * ceil(known.window / PAGE),
            max_batch_tokens=max(STEP_TOKENS, self._max_batch),
            max_requests_per_batch=self._max_batch,
            use_cuda_graph=False,  # Python chooses tokens
            use_async_batching=False,
            auto_switch_to_flash=False,  # it may come from the Hub
        )
        try:
            self._manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1), room)
            self._manager.logit_processor = chosen()
            self._manager.start()
            self._ask([3, 4, 5], 4, [])  # tokens that every vocabulary has; a model that cannot be run so fails here
            while not (said := self._hear()).is_finished():
                pass
            if said.error:
                raise RuntimeError(said.error)
        except Exception as error:
            raise ArtifactError(
                f"The engine `transformers` cannot run {type(model).__name__} for many requests at once "
                f"({type(error).__name__}: {error}). Serve this model with the engine `vllm`."
            ) from error
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - start)

    def _begin(self, job: Job) -> Answering:
        from serving.engines.sampling import Sampler

        model = cast("Folder", self._model)
        row = Answering(job, model)
        plain = not job.request.temperature and model.repetition_penalty == 1
        choice = {} if plain else {"choice": Sampler(job.request, model.repetition_penalty)}
        row.name = int(self._ask(row.prompt, job.request.max_new_tokens, sorted(model.ends), **choice))
        return row

    def _step(self, rows: list[Answering]) -> None:
        """Take in what was said since, at least one token."""
        known = {row.name: row for row in rows}
        outputs = cast("ContinuousBatchingManager", self._manager).output_router.output_queue
        for output in [self._hear(), *(outputs.get() for _ in range(outputs.qsize()))]:
            if not (row := known.get(int(output.request_id))) or row.done:
                continue
            if output.error:  # it is told of all requests when a step fails
                raise EngineDied from RuntimeError(output.error)
            row.ended = output.is_finished()
            row.say(output.generated_tokens[row.said :])

    def _leave(self, row: Answering) -> None:
        if not row.ended:
            cast("ContinuousBatchingManager", self._manager).cancel_request(str(row.name))

    def _unload(self) -> None:
        if self._manager:
            self._manager.stop(hard_stop=True)
        self._manager = self._model = None
        gc.collect()

    def _ask(self, ids: list[int], max_new_tokens: int, ends: list[int], **choice: Any) -> str:
        manager, self._names = cast("ContinuousBatchingManager", self._manager), self._names + 1
        name = manager.add_request(
            ids, str(self._names), max_new_tokens, streaming=True, eos_token_id=ends or -1, **choice
        )
        if name is None:
            raise EngineDied
        return name

    def _hear(self) -> GenerationOutput:
        """Wait for the next that is said of any request.

        Raises:
            EngineDied: if nothing will be.
        """
        manager = cast("ContinuousBatchingManager", self._manager)
        while True:
            failed = manager.background_thread_status.fatal_error
            if failed or not manager.is_running():
                raise EngineDied from failed
            if said := manager.get_result(timeout=0.2):
                return said
