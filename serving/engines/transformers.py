"""The engine for what neither OpenVINO nor vLLM runs: a servable folder, answered by transformers' continuous batching.

transformers keeps the running batch and the keys and values, in a thread of its own; here are the queue, the choice of
each token and the text.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import ArtifactError
from llmops.model.gguf.pipeline import is_gguf
from serving.engines.answering import Answering, begun
from serving.engines.base import Stats
from serving.engines.stepping import Job, SteppingEngine
from serving.errors import EngineDied

if TYPE_CHECKING:
    from transformers.generation.continuous_batching import ContinuousBatchingManager
    from transformers.generation.continuous_batching.requests import GenerationOutput

    from llmops.model.base.folder import Folder
    from serving.engines.sampling import Choice, Sampler

log = logging.getLogger(__name__)

STEP_TOKENS = 256  #: most tokens that one step reads, of prompts above all
PAGE = 32  #: tokens whose keys and values are kept together


@dataclass(slots=True, eq=False)
class Asked(Answering):
    """A request in the batch."""

    name: str
    choice: Sampler | None  #: None: the likeliest token
    heard: int = field(default=0, init=False)  #: how many of its tokens we have
    ended: bool = field(default=False, init=False)  #: whether these are all


class TransformersEngine(SteppingEngine[Asked]):
    """Answers with the model of one servable folder.

    Args:
        servable: the folder.
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        max_context: most tokens of one, prompt and answer together; fewer if the model takes fewer. Keys and values of
            `max_batch` times as many have room in memory.
        threads: torch threads; 0: all cores.
    """

    def __init__(
        self, servable: Path, max_queue: int, max_batch: int, max_context: int = 2048, threads: int = 0
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._folder, self._max_context, self._threads = servable, max_context, threads
        self._names = 0
        self._manager: ContinuousBatchingManager | None = None
        self._model: Folder | None = None  # set once it is loaded

    def stats(self) -> Stats:
        """See `Engine`."""
        known, manager = super().stats(), self._manager
        computing = manager is not None and manager.is_running() and not manager.background_thread_status.fatal_error
        return Stats(known.alive and computing, known.waiting, known.running)

    def _load(self) -> None:
        import torch
        from peft import PeftModel
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        from llmops.model.base.folder import read_folder
        from llmops.model.base.load import load_servable
        from serving.engines.sampling import chosen

        start = time.monotonic()
        if is_gguf(self._folder):
            raise ArtifactError(
                f"The engine `transformers` does not read the GGUF file in {self._folder}. Set serving.engine to "
                "`auto` or `openvino`."
            )
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
            auto_switch_to_flash=False,  # it may come from a hub
        )
        try:
            self._manager = model.init_continuous_batching(GenerationConfig(eos_token_id=-1), room)
            self._manager.logit_processor = chosen()
            self._manager.start()
            apart = self._apart(model, known.window)
        except Exception as error:
            raise _unfit(model, f"{type(error).__name__}: {error}") from error
        if not apart < 0.2:
            raise _unfit(model, f"its logits are off by {apart:.2f} of their deviation")
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - start)

    def _apart(self, model: Any, window: int) -> float:
        """How far the logits after a prompt and some tokens are from the model's own, in their deviations.

        Rounding differs in the last bits, 0.01 of the deviation; wrong attention gives another answer altogether.
        """
        import torch

        from serving.engines.sampling import Forced

        ids = list(range(3, 35))[:window]  # of tokens that every vocabulary has
        forced = Forced(ids[len(ids) // 2 :])
        name = self._ask(ids[: len(ids) // 2], len(forced.tokens), (), forced)
        while (said := self._hear()).request_id != name or not said.is_finished():
            pass
        if said.error:
            raise RuntimeError(said.error)
        with torch.inference_mode():
            right = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -2].float()
        return float((cast("torch.Tensor", forced.seen) - right).std() / right.std())

    def _begin(self, job: Job) -> Asked:
        from serving.engines.sampling import Sampler

        model = cast("Folder", self._model)
        ids, ends, writer, told = begun(job, model)
        request = job.request
        plain = not request.temperature and model.repetition_penalty == 1 and request.logprobs is None
        choice = None if plain else Sampler(request, model.repetition_penalty)
        name = self._ask(ids, request.max_new_tokens, ends, choice)
        return Asked(job, len(ids), ends, writer, told, name, choice)

    def _step(self, rows: list[Asked]) -> None:
        """Take in what was said since, at least one token."""
        known = {row.name: row for row in rows}
        outputs = cast("ContinuousBatchingManager", self._manager).output_router.output_queue
        said = [self._hear(), *(outputs.get() for _ in range(outputs.qsize()))]
        for output in said:
            if not (row := known.get(output.request_id)) or row.done:
                continue
            if output.error:  # it is told of all requests when a step fails
                raise EngineDied from RuntimeError(output.error)
            before, row.heard = row.heard, len(output.generated_tokens)
            row.ended = output.is_finished()
            odds = row.choice.odds[before:] if row.choice else ()
            row.say(output.generated_tokens[before:], last=row.ended, odds=odds)

    def _leave(self, row: Asked) -> None:
        if not row.ended:
            cast("ContinuousBatchingManager", self._manager).cancel_request(row.name)

    def _unload(self) -> None:
        if self._manager:
            self._manager.stop(hard_stop=True)
        self._manager = self._model = None
        gc.collect()

    def _ask(self, ids: list[int], max_new_tokens: int, ends: Collection[int], choice: Choice | None) -> str:
        manager, self._names = cast("ContinuousBatchingManager", self._manager), self._names + 1
        more: dict[str, Any] = {"choice": choice} if choice else {}
        name = manager.add_request(
            ids, str(self._names), max_new_tokens, streaming=True, eos_token_id=sorted(ends) or -1, **more
        )
        if name is None:
            raise EngineDied
        return name

    def _hear(self) -> GenerationOutput:
        """The next that is said of any request.

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


def _unfit(model: Any, why: str) -> ArtifactError:
    return ArtifactError(
        f"The engine `transformers` cannot run {type(model).__name__} for many requests at once ({why}). "
        "Serve this model with the engine `vllm`."
    )
