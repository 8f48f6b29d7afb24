"""How likely a model finds given answers: what perplexity is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmops.features.tokenize import Tokens
from llmops.prompts import all_training_ids
from llmops.records import Example
from llmops.statistics.intervals import Floats, Measure, quotient


def reference_tokens(tokenizer: PreTrainedTokenizerBase, items: Sequence[Example]) -> list[Tokens]:
    """The reference answer of each item behind its prompt, for `packing.answer_nats`; nothing is cut off."""
    made = all_training_ids(tokenizer, [(item.question, item.answer, item.context) for item in items])
    return [Tokens(item.id, *ids) for item, ids in zip(items, made, strict=True)]


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
