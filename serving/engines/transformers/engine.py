"""The engine of the embedded default: a servable folder, answered by transformers in one running batch.

Every step takes all running requests one token further and reads a part of the prompts that have joined. A long prompt
is read in parts, so that it keeps nobody waiting for longer than one part takes.
"""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from serving.engines.base import Chunk, FinishReason, Text
from serving.engines.stepping import Job, Row, SteppingEngine

if TYPE_CHECKING:
    from serving.engines.transformers.detokenize import Writer
    from serving.engines.transformers.sampling import Sampler
    from serving.engines.transformers.servable import Servable

log = logging.getLogger(__name__)

#: Most tokens of prompts that one step reads, by the kind of device.
_STEP_TOKENS = {"cpu": 1024, "cuda": 2048}


@dataclass(slots=True, eq=False)
class Answering(Row):
    """A request in the batch."""

    slot: int
    ids: list[int]  #: of prompt and answer
    prompt: int  #: how many of them are the prompt
    sampler: Sampler
    writer: Writer
    read: int = field(default=0, init=False)  #: how many of them the model has read

    @property
    def said(self) -> int:
        """Tokens of the answer so far."""
        return len(self.ids) - self.prompt


class TransformersEngine(SteppingEngine[Answering]):
    """Answers with the model of one servable folder.

    Args:
        servable: the folder.
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
        max_context: most tokens of one, prompt and answer together. Keys and values of `max_batch` times as many have
            room in memory; a CPU's is taken as it is needed.
        threads: torch threads; 0: all cores.
    """

    def __init__(
        self, servable: Path, max_queue: int, max_batch: int, max_context: int = 2048, threads: int = 0
    ) -> None:
        super().__init__(max_queue, max_batch)
        self._folder, self._max_context, self._threads = servable, max_context, threads
        self._free = list(range(max_batch))
        self._model: Servable | None = None

    def _load(self) -> None:
        import torch

        from serving.engines.transformers.packed import FEW
        from serving.engines.transformers.servable import open_servable

        begun = time.monotonic()
        if self._threads:
            torch.set_num_threads(self._threads)
        self._model = open_servable(self._folder, self._max_batch, self._max_context)
        kind = self._model.device.type
        self._step_tokens, self._few = _STEP_TOKENS.get(kind, 1024), FEW if kind == "cpu" else 0
        log.info("Loaded %s in %.1f s", self._folder, time.monotonic() - begun)

    def _begin(self, job: Job) -> Answering:
        from serving.engines.prompt import ids_of
        from serving.engines.transformers.detokenize import Writer
        from serving.engines.transformers.sampling import Sampler

        model = cast("Servable", self._model)
        ids = ids_of(model.tokenizer, job.request, model.window)
        sampler = Sampler(job.request, model.device, model.repetition_penalty)
        strip = not isinstance(job.request.prompt, Text)
        writer = Writer(model.tokenizer, (*model.stops, *job.request.stop), strip)
        slot = min(self._free)
        self._free.remove(slot)
        return Answering(job, slot, ids, len(ids), sampler, writer)

    def _step(self, rows: list[Answering]) -> None:
        speaking = [(row, row.ids[row.read :]) for row in rows if row.said]
        reading = self._reading([row for row in rows if not row.said])
        most = self._few or self._max_batch
        for n in range(0, len(speaking), most):
            self._forward(speaking[n : n + most])
        if reading:
            self._forward(reading)

    def _reading(self, rows: list[Answering]) -> list[tuple[Answering, list[int]]]:
        """The prompts that are read next, or the next parts of long ones: who came first, and who fits in with them.

        On a CPU short ones are read apart from longer ones: see `packed`.
        """
        parts: list[tuple[Answering, list[int]]] = []
        few, room = False, self._step_tokens
        for row in rows:
            tokens = row.ids[row.read : row.read + self._step_tokens]
            if not parts and len(tokens) <= self._few:
                few, room = True, self._few
            if len(tokens) <= room and (len(tokens) <= self._few) == few:
                parts.append((row, tokens))
                room -= len(tokens)
        return parts

    def _forward(self, part: list[tuple[Answering, list[int]]]) -> None:
        """Let the model read more tokens of some requests, and say what follows where it has read all."""
        logits = cast("Servable", self._model).batch.forward([(row.slot, row.read, tokens) for row, tokens in part])
        likeliest = logits.argmax(-1).tolist()
        for n, (row, tokens) in enumerate(part):
            row.read += len(tokens)
            if row.read == len(row.ids):
                self._say(row, row.sampler.next(logits[n], likeliest[n], row.ids))

    def _say(self, row: Answering, token: int) -> None:
        text, reason = "", cast("FinishReason | None", None)
        if token in cast("Servable", self._model).ends:
            reason = "stop"
        else:
            row.ids.append(token)
            text, stopped = row.writer.feed(token)
            reason = "stop" if stopped else "length" if row.said == row.job.request.max_new_tokens else None
        if reason:
            row.done = True
            text += row.writer.end()
        if text or reason:
            row.job.stream.push(Chunk(text, row.prompt, row.said, reason))

    def _leave(self, row: Answering) -> None:
        self._free.append(row.slot)

    def _unload(self) -> None:
        self._model = None
        gc.collect()
