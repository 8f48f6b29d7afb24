"""Inference with a finished model, for all stages that ask one: a servable folder, or any model folder.

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
from llmops.model.base.classifier import GRAPH_FILE, Classifier
from llmops.model.base.encoder import convert_to_openvino
from llmops.model.base.folder import read_folder
from llmops.model.base.packing import compute_answer_nats
from llmops.model.gguf.process import Worker, run_requests
from llmops.model.gguf.worker import is_gguf
from llmops.prompts.encoder import is_encoder

_SCORING_BATCH = 64  #: examples whose answers are scored together


def open_model(folder: str | Path, threshold: float | None = None) -> InferenceModel:
    """Load the model of a folder. `threshold` takes the place of a classifier's own."""
    if is_encoder(folder):
        is_servable = (Path(folder) / GRAPH_FILE).is_file()
        graph = None if is_servable else convert_to_openvino(Path(folder))
        return Classifier(Path(folder), graph=graph, threshold=threshold)
    return GgufModel(Path(folder)) if is_gguf(Path(folder)) else TorchModel(*load.load_servable(folder))


def answer_questions(
    model: InferenceModel, requests: Sequence[tuple[str, str]], max_new_tokens: int, batch: int = 16
) -> list[str]:
    """Answer (question, context) pairs, in their order; a classifier answers with a label."""
    if isinstance(model, Classifier):
        found = model.generate([ids for ids, _ in model.format.encode(requests)])
        return [model.format.labels[number] for (number,) in found]
    ids = [prompts.encode_question(model.tokenizer, question, context) for question, context in requests]
    return [generate.decode(model.tokenizer, tokens) for tokens in model.generate(ids, max_new_tokens, batch)]


class TorchModel:
    """A model that torch runs.

    A request may have `window` tokens, prompt and answer together. The process `process_id` runs the model.
    """

    def __init__(self, model: load.Model, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.window = int(model.config.max_position_embeddings)
        self.process_id = os.getpid()

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """Return the token ids of the answer to each prompt, without the token that ends it; `batch` at a time."""
        # Longest prompts first, so that batches pad little.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i]))
        answers: list[list[int]] = [[] for _ in requests]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            generated = generate.generate(self.model, self.tokenizer, [requests[i] for i in chosen], max_new_tokens)
            for i, tokens in zip(chosen, generated, strict=True):
                answers[i] = tokens
        return answers

    def compute_nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """Return the negative log-likelihood of each example's answer in nats, and its number of tokens."""
        return compute_answer_nats(self.model, examples)

    def close(self) -> None:
        """Free the memory. The model cannot answer any more."""
        self.model = None
        load.free_memory()


class GgufModel:
    """A GGUF file that OpenVINO GenAI runs, in a folder with the tokenizer and `generation_config.json`.

    Prompts that begin alike are read once, as in serving. So call `compute_nats` first; then the answers cost less.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker = Worker(folder, batch=_SCORING_BATCH)
        self._properties = read_folder(folder)
        self.tokenizer, self.window = self._properties.tokenizer, self._properties.window
        self.process_id = self._worker.process.pid

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """See `TorchModel`."""
        properties = self._properties
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_strings": {*properties.stop_strings}}
        settings |= {"repetition_penalty": properties.repetition_penalty}
        outputs = run_requests(self._worker, requests, settings, batch, properties.end_ids)
        return [generate.cut_at_end(ids, properties.end_ids) for ids, _ in outputs]

    def compute_nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """See `TorchModel`."""
        log_probs = self._compute_log_probs(examples)
        # OpenVINO gives no log-probabilities of a beginning that it has read before.
        if incomplete := [n for n, logs in enumerate(log_probs) if len(logs) < _count_needed_log_probs(examples[n])]:
            self._worker.close()
            self._worker = Worker(self._folder, batch=_SCORING_BATCH, share_prefixes=False)
            self.process_id = self._worker.process.pid
            for n, logs in zip(incomplete, self._compute_log_probs([examples[n] for n in incomplete]), strict=True):
                log_probs[n] = logs
        return [
            (-sum(logs[-1 - _count_answer_tokens(example) : -1]), _count_answer_tokens(example))
            for example, logs in zip(examples, log_probs, strict=True)
        ]

    def close(self) -> None:
        """See `TorchModel`."""
        self._worker.close()

    def _compute_log_probs(self, examples: Sequence[Tokens]) -> list[list[float]]:
        """Return log-probabilities of each example's last tokens, and of one token that is generated after them."""
        settings = {"max_new_tokens": 1, "echo": True, "logprobs": 1, "ignore_eos": True}
        return [
            logs for _, logs in run_requests(self._worker, [e.token_ids for e in examples], settings, _SCORING_BATCH)
        ]


InferenceModel = TorchModel | GgufModel | Classifier


def _count_answer_tokens(example: Tokens) -> int:
    return len(example.token_ids) - example.prompt_tokens


def _count_needed_log_probs(example: Tokens) -> int:
    """Return the number of log-probabilities that include all of the answer: one more at each end."""
    return min(_count_answer_tokens(example) + 2, len(example.token_ids) + 1)
