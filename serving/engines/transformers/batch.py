"""Forward passes over the running batch: new tokens of any requests in, what may follow each out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from serving.engines.transformers.slots import SLOTS, Slots
from serving.engines.transformers.steps import Piece, Step

#: (slot, position of the first, token ids)
Part = tuple[int, int, Sequence[int]]


class Batch:
    """A causal language model with room for some requests.

    Args:
        model: in evaluation mode; it can be used for nothing else afterwards.
        slots: most requests.
        window: most tokens of one, prompt and answer together.
    """

    def __init__(self, model: Any, slots: int, window: int) -> None:
        self._model = model
        self._slots = Slots(slots, window)
        model.set_attn_implementation(SLOTS)

    @torch.inference_mode()
    def forward(self, parts: Sequence[Part]) -> torch.Tensor:
        """Read new tokens of some requests, each request's right after what was read of it before.

        Returns:
            (parts, vocabulary): the logits of what follows the last token of each part, in float32.
        """
        device = self._model.device
        order = sorted(range(len(parts)), key=lambda n: (len(parts[n][2]) > 1, parts[n][0]))
        pieces = [Piece(parts[n][0], parts[n][1], len(parts[n][2])) for n in order]
        step = Step(pieces, self._slots.window, device)
        ids = list(chain.from_iterable(parts[n][2] for n in order))
        ends, at = [0] * len(parts), -1
        for n, piece in zip(order, pieces, strict=True):
            at += piece.count
            ends[n] = at
        output = self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(ends, device=device),
            slots=self._slots,
            step=step,
        )
        logits: torch.Tensor = output.logits[0].float()
        return logits
