"""How the tokens of a request are chosen from their logits, each request by settings and chance of its own.

transformers' continuous batching draws for all requests from one generator, and leaves the repetition penalty out; this
takes the place of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from serving.engines.base import EngineRequest
from serving.engines.logprobs import Odds

_LIKELY = 256  #: tokens that are sorted first; they nearly always have `top_p` together


class Choice(Protocol):
    """How the tokens of one request are chosen; without one, the likeliest is."""

    def next(self, logits: torch.Tensor, ids: Sequence[int]) -> int:
        """The next token.

        Args:
            logits: (vocabulary,) in float32.
            ids: of prompt and answer so far.
        """


class Sampler:
    """Draws from a generator of its own, so that nobody else's draws change an answer.

    Args:
        request: the request.
        repetition_penalty: divides the logits of tokens that were there before (arXiv:1909.05858); 1: none.
    """

    def __init__(self, request: EngineRequest, repetition_penalty: float) -> None:
        self._request, self._penalty = request, repetition_penalty
        self._generator: torch.Generator | None = None  # where the logits are
        self.odds: list[Odds] = []  #: of each token that was taken, if the request asks for log-probabilities

    def next(self, logits: torch.Tensor, ids: Sequence[int]) -> int:
        """See `Choice`."""
        token, most = self._taken(logits, ids), self._request.logprobs
        if most is not None:
            logs = logits.log_softmax(-1)
            likely = logs.topk(most)
            top = [*zip(likely.indices.tolist(), likely.values.tolist(), strict=True)]
            self.odds.append(Odds(float(logs[token]), top))
        return token

    def _taken(self, logits: torch.Tensor, ids: Sequence[int]) -> int:
        if self._penalty != 1:
            there = torch.tensor([list(ids)], device=logits.device)
            logits = RepetitionPenaltyLogitsProcessor(self._penalty)(there, logits[None])[0]
        if not self._request.temperature:
            return int(logits.argmax())
        chances = torch.softmax(logits / self._request.temperature, -1)
        if self._request.top_p >= 1:
            return self._draw(chances)
        likely, ids_ = self._nucleus(chances)
        return int(ids_[self._draw(likely)])

    def _draw(self, chances: torch.Tensor) -> int:
        if self._generator is None:
            self._generator = torch.Generator(chances.device)
            if self._request.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self._request.seed)
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def _nucleus(self, chances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The fewest tokens that together have `top_p`, likeliest first (arXiv:1904.09751), and their chances."""
        likely, ids = chances.topk(min(_LIKELY, len(chances)))
        if likely.sum() < self._request.top_p:
            likely, ids = chances.sort(descending=True)
        keep = likely.cumsum(-1) - likely < self._request.top_p
        keep[0] = True
        return likely[keep], ids[keep]


class Forced:
    """Says given tokens, whatever is likely, and keeps the last logits it has seen.

    Args:
        tokens: to say.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens, self._said = list(tokens), 0
        self.seen: torch.Tensor | None = None  #: (vocabulary,)

    def next(self, logits: torch.Tensor, ids: Sequence[int]) -> int:
        """See `Choice`."""
        self.seen, self._said = logits.clone(), self._said + 1
        return self.tokens[self._said - 1]


class Chosen(ContinuousBatchingLogitsProcessor):
    """Leaves of each request that has a `Choice` only the token that this takes."""

    supported_kwargs = {"choice": object}
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._states: list[RequestState] = []  # whose logits come next

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """There is nothing to be known of a request in numbers."""
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
    """What continuous batching takes for its logits processors."""
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([Chosen()]))
    processors.tensors_required = 1
    return processors
