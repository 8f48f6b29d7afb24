"""The engine for many callers: a servable folder, answered by vLLM.

vLLM runs its scheduler and model in its own process. Its asynchronous client has its own event loop and thread. vLLM
has its own environment and image, because it needs other versions of torch and transformers than the pipeline. It is
imported when an engine is loaded; peft and bitsandbytes are never imported. See docs/vllm.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from llmops.frame.errors import ArtifactError
from llmops.model.gguf.grammars import is_structural_tag
from llmops.model.gguf.worker import is_gguf
from serving.engines.answer_row import WARM_UP, AnswerRow
from serving.engines.base import EngineStats
from serving.engines.stepping import Job, SteppingEngine
from serving.errors import EngineDied, SchemaRefused

if TYPE_CHECKING:
    from llmops.model.base.folder import ServableFolder

log = logging.getLogger(__name__)

ADAPTER = "adapter"  #: folder of a LoRA adapter beside its base, see `llmops.model.base.load`
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  #: values that vLLM accepts for `max_lora_rank`
SHUTDOWN_S = 30.0  #: seconds after which its processes are killed; a shutdown takes 3 s on an idle machine

#: Options of vLLM that `serving.vllm` may override. A new version is loaded beside the old one, so each may use less
#: than half of the device; vLLM's own default of 0.92 would leave no memory for a second version.
DEFAULTS: Mapping[str, Any] = {"gpu_memory_utilization": 0.45, "disable_log_stats": True}

#: request id, new tokens, their log-probabilities if the request asks for them, True if they are the last, error
_Output = tuple[int, list[int], list[float], bool, Exception | None]


class VllmEngine(SteppingEngine[AnswerRow]):
    """An engine with the model of one servable folder. If the folder has an `adapter/`, every request uses it.

    The arguments are those of `OpenvinoEngine`; `options` are further ones of vLLM's `AsyncEngineArgs`.
    """

    follows_schemas = True

    def __init__(
        self,
        servable: Path,
        max_queue: int,
        max_batch: int,
        max_context: int = 2048,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._options = {**DEFAULTS, "max_num_seqs": max_batch, **options}
        super().__init__(max_queue, int(self._options["max_num_seqs"]))
        self._servable, self._max_context = servable, max_context
        self._loop = asyncio.new_event_loop()
        self._outputs = SimpleQueue[_Output]()
        self._tasks: dict[int, Future[None]] = {}
        self._request_count = 0
        self._llm: Any = None
        self._lora: Any = None
        self._model: ServableFolder | None = None

    def get_stats(self) -> EngineStats:
        """See `Engine`."""
        stats, llm = super().get_stats(), self._llm
        return replace(stats, alive=stats.alive and llm is not None and not llm.errored)

    def _load(self) -> None:
        start = time.monotonic()
        if is_gguf(self._servable):
            raise ArtifactError(
                f"vLLM does not serve the GGUF file in {self._servable}. Set compress.full to `bf16` and release again."
            )
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # else vLLM sends usage reports to its developers
        from llmops.model.base.folder import read_folder

        self._model = read_folder(self._servable, self._options.get("max_model_len", self._max_context))
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        self._submit(self._open(self._model.window)).result()
        warm_up = AnswerRow(Job(WARM_UP), self._model)
        self._submit(self._generate(warm_up)).result()
        *_, error = self._wait_for_outputs()[-1]
        if error:
            raise error
        log.info("Loaded %s in %.1f s", self._servable, time.monotonic() - start)

    async def _open(self, window: int) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        options = {"model": str(self._servable), "max_model_len": window, **self._options}
        adapter = self._servable / ADAPTER
        if adapter.is_dir():
            rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
            max_rank = next(allowed for allowed in LORA_RANKS if allowed >= rank)
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_rank}
            self._lora = LoRARequest(ADAPTER, 1, str(adapter))
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    def _begin(self, job: Job) -> AnswerRow:
        row = AnswerRow(job, cast("ServableFolder", self._model))
        self._request_count += 1
        row.request_id = self._request_count
        self._tasks[row.request_id] = self._submit(self._generate(row))
        return row

    def _step(self, rows: list[AnswerRow]) -> None:
        by_id = {row.request_id: row for row in rows}
        for request_id, ids, logprobs, finished, error in self._wait_for_outputs():
            if not (row := by_id.get(request_id)) or row.done:
                continue
            if isinstance(error, EngineDied):
                raise error
            row.finished = finished
            if error:
                row.done = True
                row.job.stream.push(error)
            else:
                row.push_tokens(ids, logprobs)

    def _release(self, row: AnswerRow) -> None:
        self._tasks.pop(row.request_id).cancel()  # vLLM then aborts the request

    def _unload(self) -> None:
        if self._llm:
            self._submit(self._shut_down()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _shut_down(self) -> None:
        self._llm.shutdown(SHUTDOWN_S)
        self._llm = None

    def _submit(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait_for_outputs(self) -> list[_Output]:
        return [self._outputs.get(), *(self._outputs.get() for _ in range(self._outputs.qsize()))]

    async def _generate(self, row: AnswerRow) -> None:
        """Put vLLM's tokens of a request into the queue, then its end or its error."""
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt, request_id = {"prompt_token_ids": row.prompt}, row.request_id
        try:
            parts = self._llm.generate(prompt, _make_parameters(row), str(request_id), lora_request=self._lora)
            async for part in parts:
                output = part.outputs[0]
                if output.finish_reason not in (None, "stop", "length"):
                    raise EngineDied
                ids = list(output.token_ids)
                scores = [one[token].logprob for token, one in zip(ids, output.logprobs or (), strict=False)]
                self._outputs.put((request_id, ids, scores, output.finish_reason is not None, None))
        except EngineDeadError:
            self._outputs.put((request_id, [], [], True, EngineDied()))
        except Exception as error:
            if row.job.request.schema and isinstance(
                error, ValueError
            ):  # of vLLM's checks, before the engine's process
                error = SchemaRefused(f"the engine does not take this schema ({error})")
            self._outputs.put((request_id, [], [], True, error))


def _make_parameters(row: AnswerRow) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    request = row.job.request
    kind = "structural_tag" if is_structural_tag(request.schema) else "json"
    return SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop_token_ids=sorted(row.model.end_ids),
        repetition_penalty=row.model.repetition_penalty,
        output_kind=RequestOutputKind.DELTA,
        detokenize=False,
        logprobs=0 if request.logprobs else None,  # 0: of the drawn token alone
        structured_outputs=StructuredOutputsParams(**{kind: request.schema}) if request.schema else None,
    )
