"""A servable folder, or any model folder, made ready to answer: what all stages ask that ask a finished model.

A GGUF file is run by OpenVINO GenAI as in serving, all else by torch. Both get the same token ids, end at the same
tokens and strings, and always take the likeliest token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from llmops import prompts
from llmops.features.tokenize import Tokens
from llmops.model.base import generate, load
from llmops.model.base.folder import read_folder
from llmops.model.base.packing import answer_nats
from llmops.model.gguf.pipeline import is_gguf
from llmops.model.gguf.process import Worker, run_requests


class Answering(Protocol):
    """A model that is loaded."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def window(self) -> int:
        """Most tokens of a request, prompt and answer together."""

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """The token ids of the answer to each prompt, without the token that ends it; `batch` at a time."""

    def nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """Negative log-likelihood of each example's answer in nats, and its number of tokens."""

    def close(self) -> None:
        """Give back the memory; it answers no more."""


def open_model(folder: str | Path) -> Answering:
    """Load the model of a folder."""
    return GgufModel(Path(folder)) if is_gguf(Path(folder)) else TorchModel(*load.load_servable(folder))


def answer(model: Answering, requests: Sequence[tuple[str, str]], max_new_tokens: int, batch: int = 16) -> list[str]:
    """Answer (question, context) pairs, in their order."""
    ids = [prompts.prompt_ids(model.tokenizer, question, context) for question, context in requests]
    return [generate.decode(model.tokenizer, tokens) for tokens in model.generate(ids, max_new_tokens, batch)]


def has_room(model: Answering, question: str, tokens: int, context: str) -> bool:
    """Whether a question with a context leaves room in the model's window for an answer of so many tokens."""
    return len(prompts.prompt_ids(model.tokenizer, question, context)) + tokens <= model.window


class TorchModel:
    """A model that torch runs."""

    def __init__(self, model: load.Model, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer

    @property
    def window(self) -> int:
        """See `Answering`."""
        return int(self.model.config.max_position_embeddings)

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """See `Answering`; longest prompts first, so that batches pad little."""
        return generate.generate_all(self.model, self.tokenizer, requests, max_new_tokens, batch)

    def nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """See `Answering`."""
        return answer_nats(self.model, examples)

    def close(self) -> None:
        """See `Answering`."""
        self.model = None
        load.free_memory()


class GgufModel:
    """A GGUF file that OpenVINO GenAI runs, in a process of its own as in serving.

    Prompts that begin alike are read once, as in serving: who asks for `nats` first has the answers for less.

    Args:
        folder: of the file, with the tokenizer and `generation_config.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._worker = Worker(folder, share_prefixes=True)  # it loads while we read the rest
        self._known = read_folder(folder)
        self.tokenizer = self._known.tokenizer
        self._worker.wait_loaded()

    @property
    def window(self) -> int:
        """See `Answering`."""
        return self._known.window

    def generate(self, requests: Sequence[Sequence[int]], max_new_tokens: int, batch: int) -> list[list[int]]:
        """See `Answering`."""
        settings = {"max_new_tokens": max_new_tokens, "repetition_penalty": self._known.repetition_penalty}
        found = run_requests(self._worker, requests, settings, batch, self._known.ends, self._stopped)
        return [generate.until(ids, self._known.ends) for ids, _ in found]

    def nats(self, examples: Sequence[Tokens]) -> list[tuple[float, int]]:
        """See `Answering`."""
        found = self._logs(examples)
        # What had been read already, for a request that begins the same, has none; nor has the token behind it.
        if cut := [n for n, logs in enumerate(found) if len(logs) < _whole(examples[n])]:
            self._worker.close()
            self._worker = Worker(self._folder)
            self._worker.wait_loaded()
            for n, logs in zip(cut, self._logs([examples[n] for n in cut]), strict=True):
                found[n] = logs
        return [
            (-sum(logs[-1 - _answer(example) : -1]), _answer(example))
            for example, logs in zip(examples, found, strict=True)
        ]

    def close(self) -> None:
        """See `Answering`."""
        self._worker.close()

    def _logs(self, examples: Sequence[Tokens]) -> list[list[float]]:
        """Log-probabilities of each example's last tokens, and of one more, which is generated behind them."""
        settings = {"max_new_tokens": 1, "echo": True, "logprobs": 1, "ignore_eos": True}
        return [logs for _, logs in run_requests(self._worker, [e.token_ids for e in examples], settings, _SCORED)]

    def _stopped(self, ids: list[int]) -> bool:
        if not self._known.stops:
            return False
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return any(stop in text for stop in self._known.stops)


_SCORED = 64  # examples whose answers are scored together


def _answer(example: Tokens) -> int:
    return len(example.token_ids) - example.prompt_tokens


def _whole(example: Tokens) -> int:
    """How many log-probabilities have those of the whole answer among them: one more at each end."""
    return min(_answer(example) + 2, len(example.token_ids) + 1)
