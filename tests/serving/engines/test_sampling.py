"""The draw of a token: by the probabilities, by the request's own seed, and not by the last bits of the logits."""

from collections import Counter

import pytest
import torch

from serving.engines.base import EngineRequest, Text
from serving.engines.sampling import Sampler


def make_sampler(seed: int, top_p: float = 1.0) -> Sampler:
    return Sampler(EngineRequest(Text("Once"), 12, temperature=1.0, top_p=top_p, seed=seed), 1.0)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_last_bits_that_swap_neighbours_change_no_draw(top_p: float) -> None:
    chance = torch.Generator().manual_seed(0)
    logits = 0.1 * torch.randn(5000, generator=chance)
    nudged = logits + 3e-7 * torch.randn(5000, generator=chance)
    assert (logits.argsort() != nudged.argsort()).sum() > 10
    once, again = make_sampler(1, top_p), make_sampler(1, top_p)
    assert [once.draw(logits, []) for _ in range(500)] == [again.draw(nudged, []) for _ in range(500)]


def test_tokens_are_drawn_by_their_probabilities_and_by_the_seed() -> None:
    logits = torch.tensor([0.1, 0.5, 0.0, 0.3, 0.1]).log()
    sampler = make_sampler(1)
    counts = Counter(sampler.draw(logits, []) for _ in range(10_000))
    assert counts[2] == 0 and [round(counts[n] / 10_000, 1) for n in (0, 1, 3, 4)] == [0.1, 0.5, 0.3, 0.1]
    assert {make_sampler(1, 0.7).draw(logits, []) for _ in range(9)} < {1, 3}  # one seed, one token
    assert {make_sampler(seed, 0.7).draw(logits, []) for seed in range(50)} == {1, 3}
