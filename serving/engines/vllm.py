"""The engine for many callers: a servable folder, answered by vLLM.

vLLM runs its scheduler and model in a process of its own; its asynchronous front has an event loop and thread of its
own. vLLM lives in its own environment and image, since it needs other versions of torch and transformers than the
pipeline; nothing of it is imported before an engine is loaded, and nothing of peft or bitsandbytes at all. See
docs/vllm.md.
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
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import ArtifactError
from llmops.model.gguf.worker import is_gguf
from serving.engines.answering import WARM_UP, Answering
from serving.engines.base import Stats
from serving.engines.stepping import Job, SteppingEngine
from serving.errors import EngineDied

if TYPE_CHECKING:
    from llmops.model.base.folder import Folder

log = logging.getLogger(__name__)

ADAPTER = "adapter"  #: folder of a LoRA adapter beside its base, as `llmops.model.base.load` has it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  #: sizes that vLLM makes room for
SHUTDOWN_S = 30.0  #: then its processes are killed; it takes 3 s on an idle machine

#: Options of vLLM, unless `serving.vllm` has others. A new version is loaded beside the old one, so each may have
#: less than half of the device; vLLM's own 0.9 would leave no room for a swap.
DEFAULTS: Mapping[str, Any] = {"gpu_memory_utilization": 0.45, "disable_log_stats": True}


class VllmEngine(SteppingEngine[Answering]):
    """Answers with the model of one servable folder; with `adapter/` in it, the adapter is applied to every request.

    Its arguments are those of `OpenvinoEngine`, and `options`: further ones of vLLM's `AsyncEngineArgs`.
    """

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
        self._said = SimpleQueue[tuple[int, list[int], bool, Exception | None]]()
        self._asked: dict[int, Future[None]] = {}
        self._names = 0
        self._llm: Any = None
        self._lora: Any = None
        self._model: Folder | None = None

    def stats(self) -> Stats:
        """Return the engine's present state, see `Engine`."""
        known, llm = super().stats(), self._llm
        return Stats(known.alive and llm is not None and not llm.errored, known.waiting, known.running)

    def _load(self) -> None:
        begun = time.monotonic()
        if is_gguf(self._servable):
            raise ArtifactError(
                f"vLLM does not serve the GGUF file in {self._servable}. Set compress.full to `bf16` and release again."
            )
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report to its makers
        from llmops.model.base.folder import read_folder

        self._model = read_folder(self._servable, self._options.get("max_model_len", self._max_context))
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        self._call(self._open(self._model.window)).result()
        warm_up = Answering(Job(WARM_UP), self._model)
        self._call(self._ask(warm_up)).result()
        _, _, _, error = self._heard()[-1]
        if error:
            raise error
        log.info("Loaded %s in %.1f s", self._servable, time.monotonic() - begun)

    async def _open(self, window: int) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        options = {"model": str(self._servable), "max_model_len": window, **self._options}
        adapter = self._servable / ADAPTER
        if adapter.is_dir():
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _room_for(adapter)}
            self._lora = LoRARequest(ADAPTER, 1, str(adapter))
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    def _begin(self, job: Job) -> Answering:
        row = Answering(job, cast("Folder", self._model))
        self._names += 1
        row.name = self._names
        self._asked[row.name] = self._call(self._ask(row))
        return row

    def _step(self, rows: list[Answering]) -> None:
        """Receive vLLM's new tokens, at least one."""
        known = {row.name: row for row in rows}
        for name, ids, ended, error in self._heard():
            if not (row := known.get(name)) or row.done:
                continue
            if isinstance(error, EngineDied):
                raise error
            row.ended = ended
            if error:
                row.done = True
                row.job.stream.push(error)
            else:
                row.say(ids)

    def _leave(self, row: Answering) -> None:
        self._asked.pop(row.name).cancel()  # its task, which lets vLLM abort the request

    def _unload(self) -> None:
        if self._llm:
            self._call(self._shut()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _shut(self) -> None:
        self._llm.shutdown(SHUTDOWN_S)
        self._llm = None

    def _call(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _heard(self) -> list[tuple[int, list[int], bool, Exception | None]]:
        return [self._said.get(), *(self._said.get() for _ in range(self._said.qsize()))]

    async def _ask(self, row: Answering) -> None:
        """Pass on vLLM's tokens of a request, then its end or its error."""
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt, name = {"prompt_token_ids": row.prompt}, row.name
        try:
            parts = self._llm.generate(prompt, _parameters(row), str(name), lora_request=self._lora)
            async for part in parts:
                output = part.outputs[0]
                if output.finish_reason not in (None, "stop", "length"):
                    raise EngineDied
                self._said.put((name, list(output.token_ids), output.finish_reason is not None, None))
        except EngineDeadError:
            self._said.put((name, [], True, EngineDied()))
        except Exception as error:
            self._said.put((name, [], True, error))


def _parameters(row: Answering) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    request = row.job.request
    return SamplingParams(
        max_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop_token_ids=sorted(row.model.ends),
        repetition_penalty=row.model.repetition_penalty,
        output_kind=RequestOutputKind.DELTA,
        detokenize=False,
    )


def _room_for(adapter: Path) -> int:
    """Return the smallest rank that vLLM makes room for and the adapter fits in."""
    rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    return next(room for room in RANKS if room >= rank)
