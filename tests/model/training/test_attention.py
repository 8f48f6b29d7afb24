"""Attention an example at a time gives what the masked square gives, for architectures that differ in their heads."""

from typing import Any

import pytest
import torch

from llmops.data.features.tokenize import Tokens
from llmops.model.base.packing import compute_answer_loss, pack
from llmops.model.training import attention
from llmops.model.training.attention import SEGMENTS
from tests.model.samples import make_causal_model

LENGTHS = (3, 17, 1, 9, 2)
EXAMPLES = [
    Tokens(str(n), torch.randint(5, 300, (n + 1,), generator=torch.Generator().manual_seed(n)).tolist(), 1)
    for n in LENGTHS
]
MODELS = {
    "llama": {},
    "qwen2": {},
    "phi3": {"sliding_window": 32},
    "mistral": {"sliding_window": 5},  # shorter than an example
}


def compute_gradients(model: Any, batches: list[list[Tokens]]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    losses = [compute_answer_loss(model, pack(batch)) for batch in batches]
    torch.stack(losses).sum().backward()
    return sum(float(loss.detach()) for loss in losses), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", MODELS)
def test_equals_unpacked_training_and_the_masked_square(name: str) -> None:
    model = make_causal_model(name, **MODELS[name])
    alone = compute_gradients(model, [[e] for e in EXAMPLES])
    square = compute_gradients(model, [EXAMPLES])
    model.set_attn_implementation(SEGMENTS)
    packed = compute_gradients(model, [EXAMPLES])
    for other in (square, packed):
        assert other[0] == pytest.approx(alone[0], rel=1e-5)
        torch.testing.assert_close(other[1], alone[1], rtol=1e-4, atol=1e-5)


def test_works_without_knowing_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not pass them on falls back to the square, whose mask comes from the positions."""
    model = make_causal_model("llama").eval()
    expected = float(compute_answer_loss(model, pack(EXAMPLES)))
    model.set_attn_implementation(SEGMENTS)
    unaware = pack(EXAMPLES)
    for name in [n for n in unaware if n.startswith(("cu_seq", "max_length"))]:
        del unaware[name]
    called = []
    real = attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **k: called.append(1) or real(*a, **k))
    assert float(compute_answer_loss(model, unaware)) == pytest.approx(expected, rel=1e-5)
    assert len(called) == 2
