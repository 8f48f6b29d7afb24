"""How likely a model finds given answers: what perplexity is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from llmops.features.tokenize import Tokens
from llmops.model.base.load import Model
from llmops.model.base.packing import pack
from llmops.prompts import training_ids
from llmops.records import Example
from llmops.statistics.intervals import Floats, Measure, quotient


def reference_tokens(tokenizer: PreTrainedTokenizerBase, items: Sequence[Example]) -> list[Tokens]:
    """The reference answer of each item behind its prompt, for `answer_nats`; nothing is cut off."""
    return [Tokens(i.id, *training_ids(tokenizer, i.question, i.answer, i.context)) for i in items]


@torch.inference_mode()
def answer_nats(model: Model, examples: Sequence[Tokens], batch: int = 8) -> list[tuple[float, int]]:
    """Negative log-likelihood of each example's answer in nats, and its number of tokens, in the order of `examples`.

    What ends the answer is one of its tokens. Do not train the model afterwards: see `packing.mean_loss`.
    """
    found: list[tuple[float, int]] = []
    for start in range(0, len(examples), batch):
        chosen = examples[start : start + batch]
        packed = {k: v.to(model.device) for k, v in pack(chosen).items()}
        labels = packed.pop("labels")
        logits = model(**packed, use_cache=False).logits[0].float()
        nats = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        first = 0
        for count in (len(e.token_ids) - e.prompt_tokens for e in chosen):
            found.append((float(nats[first : first + count].sum()), count))
            first += count
    return found


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> Measure:
    """e to the mean negative log-likelihood per token."""
    return Measure(np.stack([nats, tokens], axis=1).astype(np.float64), _perplexities)


def bits_per_byte(nats: Sequence[float], answers: Sequence[str]) -> Measure:
    """Bits per UTF-8 byte of the answers: comparable between tokenizers (The Pile, arXiv:2101.00027, section 3.1)."""
    return Measure(np.stack([nats, [max(1, len(a.encode())) for a in answers]], axis=1).astype(np.float64), _bits)


def _perplexities(sums: Floats) -> Floats:
    values: Floats = np.exp(quotient(sums))
    return values


def _bits(sums: Floats) -> Floats:
    values: Floats = quotient(sums) / np.log(2)
    return values
