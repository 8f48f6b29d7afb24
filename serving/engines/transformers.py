"""The engine of the embedded default: a servable folder, answered greedily by transformers in static batches.

All requests of a batch are answered in the time of its longest: each is cut at its own limit afterwards.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmops import prompts
from serving.engines.base import Answer, Ask
from serving.engines.batching import BatchingEngine
from serving.errors import PromptRefused

log = logging.getLogger(__name__)

WARM_UP = Ask("Hello", "", 4)


class TransformersEngine(BatchingEngine):
    """Answers with the model of one servable folder."""

    def __init__(self, servable: Path, max_queue: int, max_batch: int, threads: int = 0) -> None:
        super().__init__(max_queue, max_batch)
        self._servable, self._threads = servable, threads
        self._model: Any = None
        self._tokenizer: Any = None
        self._window = 0

    def _load(self) -> None:
        import torch

        from llmops.model.load import load_servable

        begun = time.monotonic()
        if self._threads:
            torch.set_num_threads(self._threads)
        self._model, self._tokenizer = load_servable(self._servable)
        self._window = int(self._model.config.max_position_embeddings)
        for answer in self._answer([WARM_UP]):
            if isinstance(answer, Exception):
                raise answer
        log.info("Loaded %s in %.1f s", self._servable, time.monotonic() - begun)

    def _answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        ids = [prompts.prompt_ids(self._tokenizer, ask.prompt, ask.context) for ask in asks]
        results: dict[int, Answer | Exception] = {}
        for n, ask in enumerate(asks):
            if len(ids[n]) + ask.max_new_tokens > self._window:
                results[n] = PromptRefused(
                    f"The prompt has {len(ids[n])} tokens and the answer may take {ask.max_new_tokens}; together the "
                    f"model takes {self._window}."
                )
        fit = [n for n in range(len(asks)) if n not in results]
        for group in self._groups(fit, ids, asks):
            for n, output in zip(group, self._generate([ids[n] for n in group], [asks[n] for n in group]), strict=True):
                results[n] = output
        return [results[n] for n in range(len(asks))]

    def _groups(self, fit: list[int], ids: list[list[int]], asks: Sequence[Ask]) -> list[list[int]]:
        """All at once, unless the longest prompt with the longest answer of another would leave the context."""
        if not fit:
            return []
        longest = max(len(ids[n]) for n in fit) + max(asks[n].max_new_tokens for n in fit)
        return [fit] if longest <= self._window else [[n] for n in fit]

    def _generate(self, ids: list[list[int]], asks: list[Ask]) -> list[Answer]:
        from llmops.model.load import decode, generate

        outputs = generate(self._model, self._tokenizer, ids, max(ask.max_new_tokens for ask in asks))
        return [
            Answer(
                text=decode(self._tokenizer, output[: ask.max_new_tokens]),
                input_tokens=len(prompt),
                output_tokens=min(len(output), ask.max_new_tokens),
                finish_reason="stop" if len(output) < ask.max_new_tokens else "length",
            )
            for prompt, output, ask in zip(ids, outputs, asks, strict=True)
        ]

    def _unload(self) -> None:
        self._model = self._tokenizer = None
        gc.collect()
