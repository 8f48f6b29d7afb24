"""Keys and values of the running batch, and the attention function of transformers that works on them.

Each running request has a slot: room for the keys and values of `window` tokens in every layer. A forward pass gets the
new tokens of all requests laid end to end, as one row; the attention function writes their keys and values into the
slots, and each token sees the keys of its own slot up to its own position.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from serving.engines.transformers.steps import Piece, Run, Step

SLOTS = "slots"  #: name for `set_attn_implementation`


class Slots:
    """The memory: per layer a tensor (slots, window, 2 heads, width) of keys and then values, made when first used.

    On a CPU what no request ever reached takes no memory.
    """

    def __init__(self, count: int, window: int) -> None:
        self.count, self.window = count, window
        self._layers: dict[int, torch.Tensor] = {}

    def write(self, layer: int, step: Step, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the keys and values (tokens, 2 heads, width) of a step.

        Returns:
            All keys and all values of the layer, (slots, heads, window, width).
        """
        if layer not in self._layers:
            self._layers[layer] = self._room(pairs)
        room = self._layers[layer]
        room.flatten(0, 1).index_copy_(0, step.places, pairs)
        keys, values = room.transpose(1, 2).chunk(2, 1)
        return keys, values

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros, since a masked key counts zero times its value, and zero times what was in memory may be no number.
        shape = (self.count, self.window, *like.shape[1:])
        if like.device.type != "cpu":
            return like.new_zeros(shape)
        room = mmap.mmap(-1, math.prod(shape) * like.element_size())  # zeros that take memory when they are written
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            room.madvise(mmap.MADV_NOHUGEPAGE)  # by the page: a huge one is as large as several slots
        return torch.frombuffer(room, dtype=like.dtype).view(shape)


def slots_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    slots: Slots,
    step: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of new tokens over the slots; an attention function of transformers.

    Args:
        module: the attention layer.
        query: (1, heads, tokens, width); `key` and `value` may have fewer heads.
        key: see query.
        value: see query.
        attention_mask: none.
        slots: the memory.
        step: where the tokens belong.
        scaling: of the products; by default one over the root of the width.
        sliding_window: how far back a token sees.
        **kwargs: what other attention functions use.

    Returns:
        (1, tokens, heads, width), and no weights.
    """
    pairs = torch.cat((key[0], value[0])).transpose(0, 1)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return attend(query, pairs, slots, step, layer, scaling, sliding_window or 0), None


def attend(
    query: torch.Tensor, pairs: torch.Tensor, slots: Slots, step: Step, layer: int, scaling: float | None, window: int
) -> torch.Tensor:
    """What `slots_attention` does, with keys and values (tokens, 2 heads, width) side by side."""
    keys, values = slots.write(layer, step, pairs)
    if len(step.alone) == query.shape[2]:
        return _alone(query, keys, values, step.alone, window, scaling).transpose(1, 2)
    parts, at = [], len(step.alone)
    if at:
        parts.append(_alone(query[:, :, :at], keys, values, step.alone, window, scaling)[0].transpose(0, 1))
    for run in step.runs:
        parts.append(_run(query[0, :, at : at + len(run.pieces)], keys, values, run, window, scaling))
        at += len(run.pieces)
    for piece in step.longer:
        parts.append(_piece(query[:, :, at : at + piece.count], keys, values, piece, window, scaling))
        at += piece.count
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]


def _alone(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    pieces: Sequence[Piece],
    window: int,
    scaling: float | None,
) -> torch.Tensor:
    """One token a piece, (1, heads, tokens, width) to the same, with as few operations a token as there can be."""
    strides, (_, groups, _, width), gqa = keys.stride(), keys.shape, keys.shape[1] != query.shape[1]
    parts, behind = [], values.storage_offset()
    for piece, one in zip(pieces, query.chunk(len(pieces), 2), strict=True):
        first = max(0, piece.end - window) if window else 0
        shape, start = (1, groups, piece.end - first, width), piece.slot * strides[0] + first * strides[2]
        k, v = keys.as_strided(shape, strides, start), values.as_strided(shape, strides, start + behind)
        parts.append(scaled_dot_product_attention(one, k, v, scale=scaling, enable_gqa=gqa))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _run(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, run: Run, window: int, scaling: float | None
) -> torch.Tensor:
    """One token a slot, (heads, tokens, width) to (tokens, heads, width)."""
    heads, tokens, width = query.shape
    mask, groups, places = run.mask(window), keys.shape[1], run.places
    some = slice(run.first, run.first + run.height)
    seen = slice(max(0, run.longest - window) if window and mask is None else 0, run.longest)
    rows = query.transpose(0, 1)[:, :, None]
    if mask is not None:  # few kernels take a mask and fewer key heads: queries that share one stand in a column
        rows = rows.reshape(tokens, groups, heads // groups, width)
    if places is not None:
        rows = rows.new_zeros(run.height, *rows.shape[1:]).index_copy_(0, places, rows)
    output = scaled_dot_product_attention(
        rows,
        keys[some, :, seen],
        values[some, :, seen],
        attn_mask=mask,
        scale=scaling,
        enable_gqa=mask is None and heads != groups,
    )
    if places is not None:
        output = output[places]
    return output.reshape(tokens, heads, -1)


def _piece(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, piece: Piece, window: int, scaling: float | None
) -> torch.Tensor:
    """Tokens that follow each other, (1, heads, tokens, width) to (tokens, heads, width)."""
    own = slice(piece.slot, piece.slot + 1)
    k, v = keys[own, :, : piece.end], values[own, :, : piece.end]
    whole = piece.start == 0 and (not window or piece.end <= window)
    mask = None if whole else _seen(piece, window, query.device)
    gqa = query.shape[1] != k.shape[1]
    output = scaled_dot_product_attention(query, k, v, attn_mask=mask, is_causal=whole, scale=scaling, enable_gqa=gqa)
    return output[0].transpose(0, 1)


def _seen(piece: Piece, window: int, device: torch.device) -> torch.Tensor:
    """(tokens, keys): what each token of a piece sees."""
    at = torch.arange(piece.start, piece.end, device=device)[:, None]
    keys = torch.arange(piece.end, device=device)
    seen = keys <= at
    return seen & (keys > at - window) if window else seen


AttentionInterface.register(SLOTS, slots_attention)
