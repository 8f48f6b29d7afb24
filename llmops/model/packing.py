"""Padding-free batches: the examples of a batch laid end to end in one row, told apart by their position ids.

Every token computed is a token of an example, and the vocabulary projection runs only where a loss is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmops.errors import TrainingError
from llmops.features.tokenize import Tokens


def pack(examples: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Lay examples end to end.

    Returns:
        `input_ids` and `position_ids`, both (1, tokens); `logits_to_keep` (answer tokens,): the positions whose next
        token is an answer token; `labels` (answer tokens,): those next tokens.

    Raises:
        TrainingError: if no example has an answer token, so that every label would be masked.
    """
    ids: list[int] = []
    positions: list[int] = []
    keep: list[int] = []
    for example in examples:
        start, length = len(ids), len(example.token_ids)
        ids += example.token_ids
        positions += range(length)
        keep += range(start + example.prompt_tokens - 1, start + length - 1)
    if not keep:
        raise TrainingError(
            f"All labels of a batch are masked: its {len(examples)} examples have no answer token "
            f"({', '.join(e.id for e in examples[:3])}…). Look at the answers in the annotate artifact."
        )
    tokens = torch.tensor(ids)
    kept = torch.tensor(keep)
    return {
        "input_ids": tokens[None],
        "position_ids": torch.tensor(positions)[None],
        "logits_to_keep": kept,
        "labels": tokens[kept + 1],
    }


def answer_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed cross-entropy (nats) over the answer tokens of a packed batch; a scalar with gradient."""
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        logits_to_keep=batch["logits_to_keep"],
        use_cache=False,
    ).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), batch["labels"], reduction="sum")


@torch.no_grad()
def mean_loss(model: Any, examples: Sequence[Tokens], batch: int = 8) -> float:
    """Mean cross-entropy per answer token (nats) over `examples`; e to its power is the perplexity.

    The model's mode is left as it is. In evaluation mode bitsandbytes repacks NF4 weights on a CPU, after which
    training gets zero gradients: call it on a model that still trains only in train mode and without dropout.
    """
    total, count = 0.0, 0
    for start in range(0, len(examples), batch):
        packed = {k: v.to(model.device) for k, v in pack(examples[start : start + batch]).items()}
        total += float(answer_loss(model, packed))
        count += len(packed["labels"])
    return total / count
