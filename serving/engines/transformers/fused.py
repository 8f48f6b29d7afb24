"""The layers of Llama-like models with fewer, larger operations: three multiplications of the attention as one, two of
the perceptron as one, rotation of queries and keys as one, and as much as can be in place.

On a CPU the results for tokens that are being said are the same to the bit, those for prompts in all but the last bits.
With few tokens in a step, as in serving, the time goes into starting operations: a step of SmolLM2-135M with one token
takes a third less on two cores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import rms_norm
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from serving.engines.transformers.packed import can_join, joined
from serving.engines.transformers.slots import Slots, attend
from serving.engines.transformers.steps import Step

_KNOWN = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)


class FusedLayer(torch.nn.Module):
    """Stands in for a decoder layer of `_KNOWN`."""

    def __init__(self, layer: Any, rows: int) -> None:
        super().__init__()
        attention, perceptron = layer.self_attn, layer.mlp
        self._width = int(attention.head_dim)
        self._heads = attention.q_proj.out_features // self._width
        self._groups = attention.k_proj.out_features // self._width
        self._scaling = float(attention.scaling)
        own = getattr(attention, "sliding_window", None)
        self._window = own or (attention.config.sliding_window if isinstance(layer, MistralDecoderLayer) else None)
        self.layer_idx = int(attention.layer_idx)
        self.before_attention, self.before_perceptron = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = joined([attention.q_proj, attention.k_proj, attention.v_proj], rows)
        self.output = joined([attention.o_proj], rows)
        self.gate_up = joined([perceptron.gate_proj, perceptron.up_proj], rows)
        self.down = joined([perceptron.down_proj], rows)
        self.activation = perceptron.act_fn

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        slots: Slots,
        step: Step,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`hidden_states` of shape (1, tokens, size) to the same; see `slots_attention` for the rest."""
        x = hidden_states
        x = self._attention(_normed(x, self.before_attention), step.turn(*position_embeddings), slots, step).add_(x)
        gate, up = self.gate_up(_normed(x, self.before_perceptron)).chunk(2, -1)
        out: torch.Tensor = self.down(self.activation(gate).mul_(up)).add_(x)
        return out

    def _attention(
        self, x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], slots: Slots, step: Step
    ) -> torch.Tensor:
        cos, sin = turn
        qkv = self.qkv(x)[0].view(x.shape[1], -1, self._width)
        turned = qkv[:, : self._heads + self._groups]
        swapped = torch.cat((turned[..., self._width // 2 :], turned[..., : self._width // 2]), -1)
        torch.add(turned * cos, swapped.mul_(sin), out=turned)
        query, pairs = qkv[:, : self._heads].transpose(0, 1)[None], qkv[:, self._heads :]
        seen = attend(query, pairs, slots, step, self.layer_idx, self._scaling, self._window or 0)
        out: torch.Tensor = self.output(seen.flatten(2))
        return out


def _normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """What a norm module of `_KNOWN` does."""
    out: torch.Tensor = norm.weight * rms_norm(x, norm.weight.shape, None, norm.variance_epsilon)
    return out


def fuse(model: Any, rows: int) -> None:
    """Replace the decoder layers of a model whose kind is known and whose linear layers are plain, in place.

    Args:
        model: a causal language model.
        rows: how many tokens a step usually has.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) in _KNOWN and _plain(layer):
                setattr(parent, name, FusedLayer(layer, rows))


def _plain(layer: Any) -> bool:
    attention, perceptron = layer.self_attn, layer.mlp
    together = [
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [attention.o_proj],
        [perceptron.gate_proj, perceptron.up_proj],
        [perceptron.down_proj],
    ]
    return all(can_join(layers) for layers in together)
