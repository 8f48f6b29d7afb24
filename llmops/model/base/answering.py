"""A servable folder, or any model folder, made ready to answer, for all stages that ask a finished model.

A GGUF file is run by OpenVINO GenAI as in serving, all else by torch. Both get the same token ids, end at the same
tokens and strings, and always take the likeliest token.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llmops import prompts
from llmops.data.features.tokenize import Tokens
from llmops.model.base import generate, load
from llmops.model.base.folder import read_folder
from llmops.model.base.packing import answer_nats
from llmops.model.gguf.process import Worker, run_requests
from llmops.model.gguf.worker import is_gguf

_SCORED = 64  #: examples whose answers are scored together


def open_model(folder: str | Path) -> Answering:
    """Load the model of a folder."""
    return GgufModel(Path(folder)) if is_gguf(Path(folder)) else TorchModel(*load.load_servable(folder))


def answer(model: Answering, requests: Sequence[tuple[str, str]], max_new_tokens: int, batch: int = 16) -> list[str]:
    """Answer (question, context) pairs, in their order."""
    ids = [prompts.prompt_ids(model.tokenizer, question, context) for question, context in requests]
    return [generate.decode(model.tokenizer, tokens) for tokens in model.generate(ids, max_new_tokens, batch)]


class TorchModel:
    """A model that torch runs; `window` is how many tokens a request may have, prompt and answer together.

    `process` is the id of the process that runs it.
    """

    def __init__(self, model: load.Model, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.window = int(model.config.max_position_embeddings)
        self.process = os.getpid()

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """Return the token ids of the answer to each prompt, without the token that ends it; `batch` at a time."""
        # Longest prompts first, so that batches pad little.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i]))
        answers: list[list[int]] = [[] for _ in requests]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            found = generate.generate(self.model, self.tokenizer, [requests[i] for i in chosen], max_new_tokens)
            for i, tokens in zip(chosen, found, strict=True):
                answers[i] = tokens
        return answers

    def nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """Return the negative log-likelihood of each example's answer in nats, and its number of tokens."""
        return answer_nats(self.model, examples)

    def close(self) -> None:
        """Give back the memory; it answers no more."""
        self.model = None
        load.free_memory()


class GgufModel:
    """A GGUF file that OpenVINO GenAI runs, in a folder with the tokenizer and `generation_config.json`.

    Prompts that begin alike are read once, as in serving: ask for `nats` first, and the answers cost less.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker = Worker(folder, batch=_SCORED)
        self._known = read_folder(folder)
        self.tokenizer, self.window = self._known.tokenizer, self._known.window
        self.process = self._worker.process.pid

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """See `TorchModel`."""
        known = self._known
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_strings": {*known.stops}}
        settings |= {"repetition_penalty": known.repetition_penalty}
        found = run_requests(self._worker, requests, settings, batch, known.ends)
        return [generate.until(ids, known.ends) for ids, _ in found]

    def nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """See `TorchModel`."""
        found = self._logs(examples)
        # OpenVINO has no log-probabilities of tokens that it had read before, for a request that begins the same.
        if cut := [n for n, logs in enumerate(found) if len(logs) < _whole(examples[n])]:
            self._worker.close()
            self._worker = Worker(self._folder, batch=_SCORED, share_prefixes=False)
            self.process = self._worker.process.pid
            for n, logs in zip(cut, self._logs([examples[n] for n in cut]), strict=True):
                found[n] = logs
        return [
            (-sum(logs[-1 - _answer(example) : -1]), _answer(example))
            for example, logs in zip(examples, found, strict=True)
        ]

    def close(self) -> None:
        """See `TorchModel`."""
        self._worker.close()

    def _logs(self, examples: Sequence[Tokens]) -> list[list[float]]:
        """Return log-probabilities of each example's last tokens, and of one more, which is generated behind them."""
        settings = {"max_new_tokens": 1, "echo": True, "logprobs": 1, "ignore_eos": True}
        return [logs for _, logs in run_requests(self._worker, [e.token_ids for e in examples], settings, _SCORED)]


Answering = TorchModel | GgufModel


def _answer(example: Tokens) -> int:
    return len(example.token_ids) - example.prompt_tokens


def _whole(example: Tokens) -> int:
    """Return how many log-probabilities have those of the whole answer among them: one more at each end."""
    return min(_answer(example) + 2, len(example.token_ids) + 1)
