"""Linear layers laid out once for the kernels that serve them, several of the same input as one.

On a CPU a weight in bfloat16 is laid out as oneDNN wants it: 1 to 16 tokens through a layer of SmolLM2-135M take 0.4 ms
instead of 0.55 on two cores, and give the same bits. oneDNN adds up in one order for up to 32 tokens, and in others,
which depend on how many they are, for more. So that an answer does not depend on who else asks, a pass takes no more
tokens than these, or else goes through in blocks of always the same size, which costs a tenth of the time.

A weight in 8 bits is multiplied in integers there, and so are its inputs, each token with a scale of its own and 15
bits wide: as an upper and a lower half of 8 bits, both in one multiplication. That is finer than the bfloat16 that they
come in, unlike the usual 8 bits, which cost answers their quality; and it costs little, since what takes the time is
reading the weight. Integer sums are exact, so a token gets the same result whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn import Linear
from torch.nn.functional import pad

from llmops.model.base.int8 import Int8Linear

FEW = 32  #: most tokens that a kernel of a CPU takes in one and the same way
_BLOCK = 128  #: tokens of a block of longer passes
_HALF = 128  #: weight of the upper half
_TOP = 127 * _HALF  #: largest integer of two halves


class PackedLinear(torch.nn.Module):
    """A linear layer in bfloat16 on a CPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        super().__init__()
        self._weight, self._bias = torch.ops.mkldnn._reorder_linear_weight(weight, rows), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of shape (1, tokens, in) to (1, tokens, out)."""
        count = x.shape[1]
        if count <= FEW:
            return self._multiplied(x)
        x = pad(x, (0, 0, 0, -count % _BLOCK))
        blocks = [self._multiplied(x[:, n : n + _BLOCK]) for n in range(0, count, _BLOCK)]
        return torch.cat(blocks, 1)[:, :count]

    def _multiplied(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


class PackedInt8(torch.nn.Module):
    """A linear layer with an 8-bit weight on a CPU."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        super().__init__()
        self._shape = weight.shape
        self._weight = torch.ops.onednn.qlinear_prepack(weight, [2 * rows, weight.shape[1]])
        self._scale, self._bias = scale.flatten().float(), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of shape (…, in) in bfloat16 to (…, out)."""
        rows = x.reshape(-1, self._shape[1])
        scale = rows.abs().amax(-1, keepdim=True).float().clamp_(min=1e-20).mul_(1 / _TOP)
        whole = torch.div(rows, scale).round_()
        upper = (whole * (1 / _HALF)).round_()
        halves = torch.empty(2 * len(rows), rows.shape[1], dtype=torch.int8)
        halves[: len(rows)] = upper
        halves[len(rows) :] = whole.sub_(upper, alpha=_HALF)
        out = torch.ops.onednn.qlinear_pointwise(
            halves, 1.0, 0, self._weight, self._scale, None, None, 1.0, 0, torch.float32, "none", [], ""
        )
        total = out[len(rows) :].add_(out[: len(rows)], alpha=_HALF).mul_(scale).to(x.dtype)
        total = total if self._bias is None else total + self._bias
        out_shape = (*x.shape[:-1], self._shape[0])
        result: torch.Tensor = total.view(out_shape)
        return result


def joined(layers: Sequence[Any], rows: int) -> Any:
    """One layer whose output is that of some layers, side by side.

    Args:
        layers: all `Linear`, or all `Int8Linear`, on one device.
        rows: how many tokens a step usually has, for which the layout is chosen.
    """
    weight = _cat([layer.weight.detach() for layer in layers])
    bias = None if layers[0].bias is None else _cat([layer.bias.detach() for layer in layers])
    on_cpu = weight.device.type == "cpu"
    if isinstance(layers[0], Int8Linear):
        scale = _cat([layer.weight_scale for layer in layers])
        if on_cpu:
            return PackedInt8(weight, scale, bias, rows)
        small = Int8Linear(weight.shape[1], weight.shape[0], bias)
        small.weight, small.weight_scale = weight, scale
        return small
    if on_cpu and weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return PackedLinear(weight, bias, min(rows, FEW))
    linear = Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = _fixed(weight)
    if bias is not None:
        linear.bias = _fixed(bias)
    return linear


def can_join(layers: Sequence[Any]) -> bool:
    """Whether `joined` takes these layers: not those of bitsandbytes or of an adapter, nor a mixture."""
    kinds = {type(layer) for layer in layers}
    return kinds in ({Linear}, {Int8Linear}) and len({layer.bias is None for layer in layers}) == 1


def pack(model: Any, rows: int) -> None:
    """Lay out all linear layers of a model that can be, in place; `rows` as for `joined`.

    An adapter's stay as they are: peft asks them for their weights' type.
    """
    tuners: list[Any] = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    adapted = {part for layer in tuners for part in layer.modules()}
    for parent in [module for module in model.modules() if module not in adapted]:
        for name, layer in list(parent.named_children()):
            if can_join([layer]):
                setattr(parent, name, joined([layer], rows))


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _fixed(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)
