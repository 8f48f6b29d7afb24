"""Feed training examples to a model and see what its layers are given: pruning and rounding decide by that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llmops.features.tokenize import Tokens
from llmops.model.base.packing import answer_loss, pack

EXAMPLES = 128  #: how many are fed, evenly spread over those given; GPTQ's paper took as many, of 2048 tokens each

Watch = Callable[[torch.Tensor], None]  #: is called with the inputs of a layer, one a row, in float32


@torch.no_grad()
def feed_examples(model: Any, examples: Sequence[Tokens], watches: Sequence[tuple[Any, Watch]]) -> None:
    """Run `model` over `examples`; each watch is called with all that its layer is given."""
    with _hooked(watches):
        chosen = [examples[i] for i in range(0, len(examples), max(1, len(examples) // EXAMPLES))][:EXAMPLES]
        for start in range(0, len(chosen), 8):
            answer_loss(model, {k: v.to(model.device) for k, v in pack(chosen[start : start + 8]).items()})


@contextmanager
def _hooked(watches: Sequence[tuple[Any, Watch]]) -> Iterator[None]:
    def hook(watch: Watch) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: watch(inputs[0].flatten(0, -2).float())

    handles = [layer.register_forward_pre_hook(hook(watch)) for layer, watch in watches]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
