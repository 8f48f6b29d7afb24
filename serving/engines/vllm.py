"""The engine for many callers: a servable folder, answered by vLLM.

vLLM runs its scheduler and model in a process of its own; here is the asynchronous front of that process, in an event
loop and thread of its own, so that tokenizing and detokenizing never hold up the app's loop. vLLM lives in its own
environment and image, since it needs other versions of torch and transformers than the pipeline; nothing of vLLM is
imported before an engine is loaded, and nothing of peft or bitsandbytes at all. docs/vllm.md says how to install it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmops import prompts
from llmops.errors import ArtifactError, LlmopsError
from llmops.model.gguf.pipeline import is_gguf
from serving.engines.base import Chunk, EngineRequest, Question, Stats, Stream, Text, passages_of
from serving.engines.ends import Trim
from serving.engines.logprobs import Odds, Told
from serving.engines.tool_calls import Parser, parser_name
from serving.errors import EngineDied, NotOffered, PromptRefused, QueueFull

log = logging.getLogger(__name__)

ADAPTER = "adapter"  #: folder of a LoRA adapter beside its base, as `llmops.model.base.load` has it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  #: sizes that vLLM makes room for
SHUTDOWN_S = 30.0  #: then its processes are killed; it takes 3 s on an idle machine
WARM_UP = EngineRequest(Question("Hello"), 4)

#: What vLLM is told unless `serving.vllm` says otherwise. A new version is loaded beside the old one, so each may have
#: less than half of the device; vLLM's own 0.9 would leave no room for a swap.
DEFAULTS: Mapping[str, Any] = {"gpu_memory_utilization": 0.45, "disable_log_stats": True}


class VllmEngine:
    """See `Engine`.

    Args:
        servable: folder of the model; with `adapter/` in it, the adapter is applied to every request.
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        max_context: most tokens of one, prompt and answer together; fewer if the model takes fewer.
        options: further arguments of vLLM's `AsyncEngineArgs`, such as `kv_cache_memory_bytes`.
        tool_call_parser: see `serving.tool_call_parser`.
    """

    def __init__(
        self,
        servable: Path,
        max_queue: int,
        max_batch: int,
        max_context: int = 2048,
        options: Mapping[str, Any] = MappingProxyType({}),
        tool_call_parser: str = "",
    ) -> None:
        self._servable, self._max_queue, self._max_context = servable, max_queue, max_context
        self._tool_call_parser = tool_call_parser
        self._options = {**DEFAULTS, "max_num_seqs": max_batch, **options}
        self._max_batch = int(self._options["max_num_seqs"])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._lock = threading.Lock()  # a request is either in `_jobs` before the engine closes, or told that it has
        self._jobs: dict[Future[None], Stream] = {}  # in the order in which they came
        self._closed = False
        self._loading: asyncio.Task[None] | None = None
        self._llm: Any = None
        self._tokenizer: Any = None
        self._lora: Any = None
        self._parser: Any = None
        self._context_limit = 0
        self._repetition_penalty = 1.0
        self._answer_s = 1.0  # how long a request takes, as the last ones did

    def load(self) -> None:
        """See `Engine`; raises what vLLM raises."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()
        except BaseException:
            self.close()
            raise

    def generate(self, request: EngineRequest) -> Stream:
        """See `Engine`."""

        def leave() -> None:
            job.cancel()  # its task, which lets vLLM abort the request

        stream = Stream(leave)
        with self._lock:
            if self._closed:
                stream.push(EngineDied())
                return stream
            waiting = len(self._jobs) - self._max_batch
            if waiting >= self._max_queue:
                raise QueueFull(waiting, max(1, math.ceil(self._answer_s * waiting / self._max_batch)))
            job = asyncio.run_coroutine_threadsafe(self._answer(request, stream), self._loop)
            self._jobs[job] = stream
            self._begin_first()
        job.add_done_callback(self._left)
        return stream

    def stats(self) -> Stats:
        """See `Engine`."""
        llm = self._llm
        alive = llm is not None and not self._closed and not llm.errored
        running = min(len(self._jobs), self._max_batch)
        return Stats(alive, len(self._jobs) - running, running)

    def close(self) -> None:
        """See `Engine`."""
        with self._lock:
            again, self._closed = self._closed, True
        if again or self._thread.ident is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _left(self, job: Future[None]) -> None:
        with self._lock:
            self._jobs.pop(job, None)
            self._begin_first()

    def _begin_first(self) -> None:
        """Note that those have begun for whom the batch has room: vLLM takes requests in the order in which they came,
        and tells when it does only with statistics that cost."""
        for stream in islice(self._jobs.values(), self._max_batch):
            stream.begin()

    async def _load(self) -> None:
        self._loading = asyncio.current_task()
        begun = time.monotonic()
        if is_gguf(self._servable):
            raise ArtifactError(
                f"The engine `vllm` does not read the GGUF file in {self._servable}. Serve it with the engine "
                "`openvino`, or train with a GPU in sight, where compress makes forms for one."
            )
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report to its makers
        from transformers import AutoConfig, AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        limit = int(AutoConfig.from_pretrained(str(self._servable)).get_text_config().max_position_embeddings)
        options = {"model": str(self._servable), "max_model_len": min(self._max_context, limit), **self._options}
        adapter = self._servable / ADAPTER
        if adapter.is_dir():
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _room_for(adapter)}
            self._lora = LoRARequest(ADAPTER, 1, str(adapter))
        self._tokenizer = AutoTokenizer.from_pretrained(str(self._servable))
        self._parser = Parser(self._tokenizer, parser_name(self._tokenizer, self._tool_call_parser))
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))
        self._context_limit = int(self._llm.model_config.max_model_len)
        suggested = self._llm.model_config.get_diff_sampling_param()  # by the model's generation configuration
        self._repetition_penalty = float(suggested.get("repetition_penalty", 1.0))
        async for _ in self._chunks(WARM_UP):
            pass
        log.info("Loaded %s in %.1f s", self._servable, time.monotonic() - begun)

    async def _answer(self, request: EngineRequest, stream: Stream) -> None:
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError

        begun = time.monotonic()
        try:
            async for chunk in self._chunks(request):
                stream.push(chunk)
        except EngineDeadError:
            stream.push(EngineDied())
        except Exception as error:
            # both come before the engine's process is asked
            if request.schema and isinstance(error, ValueError | VLLMValidationError):
                where = "what tools take" if request.calls else "the schema in response_format"
                error = NotOffered(f"The engine does not take {where}: {error}")
            elif isinstance(error, VLLMValidationError):
                kind = NotOffered if request.logprobs else PromptRefused
                error = kind(f"The engine does not take this request: {error}")
            if not isinstance(error, LlmopsError):
                log.exception("A request failed")
            stream.push(error)
        else:
            self._answer_s += (time.monotonic() - begun - self._answer_s) / 8

    async def _chunks(self, request: EngineRequest) -> AsyncIterator[Chunk]:
        """The pieces of an answer.

        Raises:
            PromptRefused: see `ids_of`; also if vLLM does not take the schema.
            EngineDied: if vLLM gave the request up.
        """
        from serving.engines.prompt import fitted

        ids, request = fitted(self._tokenizer, request, self._context_limit)
        strip, trim = not isinstance(request.prompt, Text), Trim()
        told = None if request.logprobs is None else Told(self._tokenizer, strip, ids[-4:])  # text goes on from there
        heard = self._parser.heard(request) if request.calls else None
        count, name, given = 0, str(uuid.uuid4()), len(passages_of(request.prompt))
        prompt = {"prompt_token_ids": ids}
        async for part in self._llm.generate(prompt, self._parameters(request), name, lora_request=self._lora):
            output = part.outputs[0]
            new = output.token_ids
            if output.finish_reason not in (None, "stop", "length"):
                raise EngineDied
            if output.finish_reason == "stop" and not isinstance(output.stop_reason, str):
                new = new[:-1]  # without the end-of-sequence token
            count += len(new)
            if told:
                for token, likely in zip(new, output.logprobs, strict=False):
                    told.feed(token, _odds(token, likely, request.logprobs or 0))
            text, calls, reason = trim.feed(output.text) if strip else output.text, (), output.finish_reason
            if heard:
                text, calls, reason = heard.feed(text, reason)
            if text or reason:
                tokens = told.leave(text, last=bool(reason)) if told else ()
                yield Chunk(text, len(ids), count, reason, tokens, calls, given)

    def _parameters(self, request: EngineRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        ends, followed = not request.ignore_eos, None
        if request.schema and request.calls:
            followed = StructuredOutputsParams(structural_tag=self._parser.grammar(request))
        elif request.schema:
            followed = StructuredOutputsParams(json=request.schema)
        own = prompts.stop_strings(self._tokenizer) if ends else []
        return SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            logprobs=request.logprobs,
            stop=[*own, *(s for s in request.stop if s)] or None,
            stop_token_ids=sorted(prompts.end_ids(self._tokenizer)) if ends else None,
            ignore_eos=request.ignore_eos,
            skip_special_tokens=not request.calls,  # what marks a call may be one
            repetition_penalty=self._repetition_penalty,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=followed,
        )

    async def _close(self) -> None:
        if self._loading:
            await asyncio.wait([self._loading])
        jobs = [asyncio.wrap_future(job) for job in list(self._jobs)]
        await asyncio.gather(*jobs, return_exceptions=True)
        if self._llm:
            self._llm.shutdown(SHUTDOWN_S)
            self._llm = None


def _odds(token: int, likely: Mapping[int, Any], most: int) -> Odds:
    """What vLLM says of a token and of the likeliest in its place."""
    top = sorted(((other, float(known.logprob)) for other, known in likely.items()), key=lambda one: -one[1])
    return Odds(float(likely[token].logprob), top[:most])


def _room_for(adapter: Path) -> int:
    """The smallest rank that vLLM makes room for and the adapter fits in."""
    rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    return next(room for room in RANKS if room >= rank)
