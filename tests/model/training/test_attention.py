"""Attention an example at a time gives what the masked square gives, for architectures that differ in their heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmops.features.tokenize import Tokens
from llmops.model.base.packing import answer_loss, pack
from llmops.model.training import attention
from llmops.model.training.attention import SEGMENTS, segments_attention

SHAPE: dict[str, Any] = dict(
    vocab_size=300,
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
)
LENGTHS = (3, 17, 1, 9, 2)
EXAMPLES = [
    Tokens(str(n), torch.randint(5, 300, (n + 1,), generator=torch.Generator().manual_seed(n)).tolist(), 1)
    for n in LENGTHS
]
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE, sliding_window=32)),
    "mistral, window shorter than an example": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5)),
}


def gradients(model: Any, batches: list[list[Tokens]]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    losses = [answer_loss(model, pack(batch)) for batch in batches]
    torch.stack(losses).sum().backward()
    return sum(float(loss.detach()) for loss in losses), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", MODELS)
def test_equals_unpacked_training_and_the_masked_square(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    alone = gradients(model, [[e] for e in EXAMPLES])
    square = gradients(model, [EXAMPLES])
    model.set_attn_implementation(SEGMENTS)
    packed = gradients(model, [EXAMPLES])
    for other in (square, packed):
        assert other[0] == pytest.approx(alone[0], rel=1e-5)
        torch.testing.assert_close(other[1], alone[1], rtol=1e-4, atol=1e-5)


def test_an_example_does_not_see_its_neighbours() -> None:
    model = MODELS["llama"]().eval()
    model.set_attn_implementation(SEGMENTS)
    last = pack([EXAMPLES[1], EXAMPLES[3]]), pack([EXAMPLES[0], EXAMPLES[3]])
    logits = [model(**{k: v for k, v in p.items() if k != "labels"}, use_cache=False).logits[0, -9:] for p in last]
    torch.testing.assert_close(*logits)


def test_works_without_knowing_the_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not pass them on falls back to the square, whose mask comes from the positions."""
    model = MODELS["llama"]().eval()
    expected = float(answer_loss(model, pack(EXAMPLES)))
    model.set_attn_implementation(SEGMENTS)
    unaware = pack(EXAMPLES)
    for name in [n for n in unaware if n.startswith(("cu_seq", "max_length"))]:
        del unaware[name]
    called = []
    real = attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **k: called.append(1) or real(*a, **k))
    assert float(answer_loss(model, unaware)) == pytest.approx(expected, rel=1e-5)
    assert len(called) == 2


def test_shape_is_the_one_transformers_wants() -> None:
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)
    output, weights = segments_attention(torch.nn.Module(), query, key, key, None, cu_seq_lens_q=bounds)
    assert output.shape == (1, 6, 4, 8) and weights is None
