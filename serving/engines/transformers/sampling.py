"""The next token of a request, from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import RepetitionPenaltyLogitsProcessor

from serving.engines.base import EngineRequest

_LIKELY = 256  #: tokens that are sorted first; they nearly always have `top_p` together


class Sampler:
    """Chooses the tokens of one request; draws from a generator of its own, so that nobody else's draws change them.

    Args:
        request: the request.
        device: where the logits are.
        repetition_penalty: divides the logits of tokens that were there before (arXiv:1909.05858); 1: none.
    """

    def __init__(self, request: EngineRequest, device: torch.device, repetition_penalty: float) -> None:
        self._request, self._penalty = request, repetition_penalty
        self._generator = torch.Generator(device)
        if request.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(request.seed)

    def next(self, logits: torch.Tensor, likeliest: int, ids: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: (vocabulary,) in float32.
            likeliest: the token with the highest of them.
            ids: of prompt and answer so far.
        """
        if self._penalty != 1:
            there = torch.tensor([list(ids)], device=logits.device)
            logits = RepetitionPenaltyLogitsProcessor(self._penalty)(there, logits[None])[0]
            likeliest = int(logits.argmax())
        if not self._request.temperature:
            return likeliest
        chances = torch.softmax(logits / self._request.temperature, -1)
        if self._request.top_p >= 1:
            return self._draw(chances)
        likely, ids_ = self._nucleus(chances)
        return int(ids_[self._draw(likely)])

    def _draw(self, chances: torch.Tensor) -> int:
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def _nucleus(self, chances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The fewest tokens that together have `top_p`, likeliest first (arXiv:1904.09751), and their chances."""
        likely, ids = chances.topk(min(_LIKELY, len(chances)))
        if likely.sum() < self._request.top_p:
            likely, ids = chances.sort(descending=True)
        keep = likely.cumsum(-1) - likely < self._request.top_p
        keep[0] = True
        return likely[keep], ids[keep]
