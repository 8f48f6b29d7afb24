"""Batches of examples, and the loss of their answers.

Those of a causal model have no padding: the examples lie end to end in one row, separated by their position ids, and
the vocabulary projection runs only where a loss is counted. Those of an encoder are padded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch

from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import TrainingError
from llmops.model.base.encoder import is_classifier, pad


def pack(examples: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Lay examples end to end.

    Returns:
        The arguments of a model, in transformers' names: `input_ids` and `position_ids`, both (1, tokens);
        `cu_seq_lens_q` and `_k` (examples + 1,): where each example begins, and the end; `max_length_q` and `_k` ():
        the longest; `logits_to_keep` (answer tokens,): the positions whose next token is an answer token. And `labels`
        (answer tokens,): those next tokens.

    Raises:
        TrainingError: if no example has an answer token, so that every label would be masked.
    """
    ids: list[int] = []
    positions: list[int] = []
    starts: list[int] = [0]
    keep: list[int] = []
    for example in examples:
        start, length = len(ids), len(example.token_ids)
        ids += example.token_ids
        positions += range(length)
        starts.append(start + length)
        keep += range(start + example.prompt_tokens - 1, start + length - 1)
    if not keep:
        raise TrainingError(
            f"All labels of a batch are masked: its {len(examples)} examples have no answer token "
            f"({', '.join(e.id for e in examples[:3])}…). Look at the answers in the annotate artifact."
        )
    tokens = torch.tensor(ids)
    kept = torch.tensor(keep)
    bounds = torch.tensor(starts, dtype=torch.int32)
    longest = bounds.diff().max()
    return {
        "input_ids": tokens[None],
        "position_ids": torch.tensor(positions)[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
        "logits_to_keep": kept,
        "labels": tokens[kept + 1],
    }


def compute_answer_loss(
    model: Any, batch: dict[str, torch.Tensor], reduction: Literal["sum", "none"] = "sum", smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross-entropy (nats) of the answer tokens of a batch with gradient, summed or as (answer tokens,).

    `smoothing` is the share of each label's probability that is spread over all labels.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits = model(**inputs).logits if is_classifier(model) else model(**inputs, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(
        logits.float(), batch["labels"], reduction=reduction, label_smoothing=smoothing
    )


def make_batch(model: Any, examples: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Return the arguments of `compute_answer_loss`, as the model reads them: see `pack` and `encoder.pad`."""
    return pad(examples) if is_classifier(model) else pack(examples)


@torch.no_grad()
def compute_answer_nats(model: Any, examples: Sequence[Tokens], batch: int = 8) -> list[tuple[float, int]]:
    """Return the negative log-likelihood of each example's answer in nats, and its number of tokens, the end included.

    A model in training is evaluated without dropout, and then is in training mode again.
    """
    answers: list[tuple[float, int]] = []
    with use_evaluation_mode(model):
        for start in range(0, len(examples), batch):
            chosen = examples[start : start + batch]
            packed = {k: v.to(model.device) for k, v in make_batch(model, chosen).items()}
            nats = compute_answer_loss(model, packed, "none")
            counts = [len(e.token_ids) - e.prompt_tokens for e in chosen]
            answers += zip((float(part.sum()) for part in torch.split(nats, counts)), counts, strict=True)
    return answers


def compute_mean_loss(model: Any, examples: Sequence[Tokens], batch: int = 8) -> float:
    """Return the mean cross-entropy per answer token (nats) over `examples`: the logarithm of the perplexity."""
    return average_per_token(compute_answer_nats(model, examples, batch))


def average_per_token(answers: Sequence[tuple[float, int]]) -> float:
    """Return the nats per answer token of the results of `compute_answer_nats`."""
    return sum(nats for nats, _ in answers) / sum(count for _, count in answers)


@contextmanager
def use_evaluation_mode(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, all but its NF4 layers, and restore its mode at the end.

    On a CPU, bitsandbytes repacks the weights of an NF4 layer when it is first used in evaluation mode. From then on
    every gradient through that layer is zero. In train mode such a layer computes the same, so its mode stays.
    """
    modes = {module: module.training for module in model.modules()}
    if model.training:
        from bitsandbytes.nn.modules import Linear4bit  # not above: who trains nothing would wait seconds for it

        model.eval()
        for module in modes:
            if isinstance(module, Linear4bit):
                module.training = modes[module]
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
