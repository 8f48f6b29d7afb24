"""How the tokens of a request are chosen from their logits, each request by settings and chance of its own.

transformers' continuous batching draws for all requests from one generator, and leaves the repetition penalty out; this
takes the place of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from serving.engines.base import EngineRequest


class Sampler:
    """Draws from a generator of its own, so that nobody else's draws change an answer.

    Args:
        request: the request.
        repetition_penalty: divides the logits of tokens that were there before (arXiv:1909.05858); 1: none.
    """

    def __init__(self, request: EngineRequest, repetition_penalty: float) -> None:
        self._request, self._penalty = request, repetition_penalty
        self._generator: torch.Generator | None = None  # where the logits are

    def next(self, logits: torch.Tensor, ids: Sequence[int]) -> int:
        """Return the token that follows `ids`, by its logits of shape (vocabulary,)."""
        if self._penalty != 1:
            there = torch.tensor([list(ids)], device=logits.device)
            logits = RepetitionPenaltyLogitsProcessor(self._penalty)(there, logits[None])[0]
        if not self._request.temperature:
            return int(logits.argmax())
        chances, ids_ = torch.softmax(logits / self._request.temperature, -1).sort(descending=True)
        likely = chances[chances.cumsum(-1) - chances < max(self._request.top_p, 1e-6)]  # arXiv:1904.09751
        return int(ids_[torch.multinomial(likely, 1, generator=self._drawn(logits.device))])

    def _drawn(self, device: torch.device) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device)
            if self._request.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._request.seed)
        return self._generator


class Chosen(ContinuousBatchingLogitsProcessor):
    """Leaves of each request that has a `Sampler` only the token that this takes."""

    supported_kwargs = {"choice": object}  # noqa: RUF012 - the base class has no class variables
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._states: list[RequestState] = []  # whose logits come next

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Do nothing: nothing is known of a request in numbers."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Note whose logits come next, in order."""
        self._states = [request.state for request in requests_with_new_token]
        return torch.zeros(len(self._states), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Choose, given logits (requests, vocabulary)."""
        for row, state in zip(scores, self._states, strict=False):  # padded at the end
            if choice := state.logit_processor_kwargs.get("choice"):
                token = choice.next(row, [*state.initial_tokens, *state.generated_tokens])
                row.fill_(-torch.inf)
                row[token] = 0
        return scores


def chosen() -> ContinuousBatchingLogitsProcessorList:
    """Return what continuous batching takes for its logits processors."""
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([Chosen()]))
    processors.tensors_required = 1
    return processors
