"""Sampling of tokens from logits, with each request's own settings and random generator.

transformers' continuous batching draws for all requests from one generator, and applies no repetition penalty.
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
    """The sampler of one request. It has its own generator, so that other requests do not change an answer.

    Args:
        request: the request.
        repetition_penalty: divides the logits of earlier tokens (arXiv:1909.05858); 1: none.
    """

    def __init__(self, request: EngineRequest, repetition_penalty: float) -> None:
        self._request, self._penalty = request, repetition_penalty
        self._generator: torch.Generator | None = None  # on the device of the logits

    def draw(self, logits: torch.Tensor, ids: Sequence[int]) -> int:
        """Return the token that follows `ids`, by its logits of shape (vocabulary,)."""
        if self._penalty != 1:
            earlier = torch.tensor([list(ids)], device=logits.device)
            logits = RepetitionPenaltyLogitsProcessor(self._penalty)(earlier, logits[None])[0]
        if not self._request.temperature:
            return int(logits.argmax())
        probabilities = torch.softmax(logits / self._request.temperature, -1)
        descending, order = probabilities.sort(descending=True)
        kept = order[descending.cumsum(-1) - descending < max(self._request.top_p, 1e-6)]  # arXiv:1904.09751
        # Each token has its own noise, whatever its rank: the batch changes the last bits of logits, which may swap
        # neighbours. The largest ratio to exponential noise is a draw by the probabilities.
        noise = torch.empty_like(probabilities).exponential_(generator=self._seed_generator(logits.device))
        return int(kept[(probabilities[kept] / noise[kept]).argmax()])

    def _seed_generator(self, device: torch.device) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device)
            if self._request.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._request.seed)
        return self._generator


class SamplingProcessor(ContinuousBatchingLogitsProcessor):
    """A logits processor that leaves, for each request with a `Sampler`, only the token that the sampler draws."""

    supported_kwargs = {"sampler": object}  # noqa: RUF012 - the base class has no class variables
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._states: list[RequestState] = []  # the requests whose logits come next, in order

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Set the requests' numeric arguments to zero; this processor has none."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Keep the requests whose logits come next, in order."""
        self._states = [request.state for request in requests_with_new_token]
        return torch.zeros(len(self._states), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Return logits (requests, vocabulary) in which the drawn tokens alone are possible."""
        for row, state in zip(scores, self._states, strict=False):  # padded at the end
            if sampler := state.logit_processor_kwargs.get("sampler"):
                token = sampler.draw(row, [*state.initial_tokens, *state.generated_tokens])
                row.fill_(-torch.inf)
                row[token] = 0
        return scores


def make_processors() -> ContinuousBatchingLogitsProcessorList:
    """Return the logits processors for continuous batching."""
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([SamplingProcessor()]))
    processors.tensors_required = 1
    return processors
