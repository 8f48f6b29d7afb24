"""Turn a bfloat16 model into one with weights in 8 bits (see `base.int8`), and write it as a model folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from llmops.features.tokenize import Tokens
from llmops.machine import GIB
from llmops.model.base.int8 import METHOD, OFFSET, Int8Linear, linear_layers
from llmops.model.compress.calibrate import feed_examples
from llmops.model.compress.gptq import round_columns

_TOP = 127  #: largest integer of a weight
_ROOM = GIB  #: for statistics of layers rounded together; the embedded model needs half, so one pass over the examples


def quantise(model: Any, examples: Sequence[Tokens]) -> Any:
    """Replace all linear layers of a model, but its output layer, by `Int8Linear`, in place.

    A layer is rounded by what it is given when the model reads `examples`. Layers are rounded in the order of the
    model, as many at once as have room for their statistics in memory. The next ones are then given what the rounded
    ones compute, and make up for their errors.
    """
    for group in _groups(list(linear_layers(model))):
        inputs = [torch.zeros(layer.in_features, layer.in_features, device=layer.weight.device) for *_, layer in group]
        watches = [(layer, partial(_add_products, seen)) for (*_, layer), seen in zip(group, inputs, strict=True)]
        feed_examples(model, examples, watches)
        for (parent, name, layer), seen in zip(group, inputs, strict=True):
            setattr(parent, name, _rounded(layer, seen))
    return model


def save_int8(model: Any, out: Path) -> None:
    """Write a model that `quantise` returned as a model folder, for `int8.load`; what is not in 8 bits in bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    state = dict(_packed(model.to(torch.bfloat16).state_dict()))
    save_torch_state_dict(state, out, shared_tensors_to_discard=list(model.all_tied_weights_keys))
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    path = out / "config.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, "quantization_config": _scheme(model)}, indent=2) + "\n", encoding="utf-8")


def _groups(layers: Sequence[tuple[Any, str, Any]]) -> Iterator[list[tuple[Any, str, Any]]]:
    """Runs of layers whose statistics take at most `_ROOM` bytes, at least one layer each."""
    group: list[tuple[Any, str, Any]] = []
    taken = 0
    for item in layers:
        need = 4 * item[2].in_features ** 2
        if group and taken + need > _ROOM:
            yield group
            group, taken = [], 0
        group.append(item)
        taken += need
    yield group


def _add_products(total: torch.Tensor, rows: torch.Tensor) -> None:
    total.addmm_(rows.T, rows)


def _rounded(layer: Any, inputs: torch.Tensor) -> Int8Linear:
    """The layer in 8 bits; `inputs` is the sum of x xᵀ over what it is given."""
    weight = layer.weight.detach().float()
    scale = (weight.abs().amax(1, keepdim=True) / _TOP).clamp(min=1e-8).to(torch.bfloat16)
    small = Int8Linear(layer.in_features, layer.out_features, None if layer.bias is None else layer.bias.detach())
    small.weight, small.weight_scale = round_columns(weight, scale, inputs, _TOP), scale
    return small


def _packed(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in state.items():
        if value.dtype == torch.int8:  # four to an integer of 32 bits, the first in its lowest byte, 0 stored as 128
            yield f"{key}_packed", (value.to(torch.int16) + OFFSET).to(torch.uint8).view(torch.int32)
            yield f"{key}_shape", torch.tensor(value.shape)
        else:
            yield key, value


def _scheme(model: Any) -> dict[str, Any]:
    """How the weights are stored, in compressed-tensors' words."""
    output = [name for name, layer in model.named_modules() if layer is model.get_output_embeddings()]
    return {
        "quant_method": METHOD,
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": output,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            }
        },
    }
