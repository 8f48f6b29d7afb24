"""Linear layers with weights in 8 bits, one scale per output channel: half the memory of bfloat16, almost its quality.

    weight ≈ q · scale,   q an integer in -127 … 127,   scale = max |weight| of the channel / 127

On disk it is the `pack-quantized` layout of the library compressed-tensors. Embedding and output layer stay in
bfloat16, and so do activations: in 8 bits, a scale a token, they cost a fine-tuned SmolLM2-135M 0.02 nats per answer
token, ten times what the weights do. Torch's dynamic quantisation has one scale for the activations of a whole batch,
so that an answer would depend on what else is in the batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from llmops.errors import ArtifactError
from llmops.features.tokenize import Tokens
from llmops.model.compress.calibrate import read
from llmops.model.compress.gptq import round_columns

METHOD = "compressed-tensors"  #: `quant_method` in the `config.json` of such a folder

_TOP = 127
_ROOM = 2**30  #: bytes; the embedded model takes half of it, and so one pass over the examples
_OFFSET = 128
#: Rows up to which torch's kernel for 8-bit weights beats making bfloat16 of them first. A 576×1536 layer on one core,
#: in microseconds: one row 44 against 286 (and 105 with a bfloat16 weight), 16 rows 338 against 277 (113).
_FEW = 12


class Int8Linear(torch.nn.Module):
    """A linear layer with an integer weight of shape (out, in) and a scale of shape (out, 1)."""

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.bfloat16))
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of shape (…, in) in bfloat16 to (…, out)."""
        rows = x.reshape(-1, self.in_features)
        out = _multiply(rows, self.weight, self.weight_scale)
        out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], self.out_features)


def quantise(model: Any, examples: Sequence[Tokens]) -> Any:
    """Replace all linear layers of a bfloat16 model, but its output layer, by `Int8Linear`, in place.

    Rounding minds what the layers are given when the model reads `examples`. Layers are done in the order of the model,
    as many at once as their statistics have room in memory, so that later ones make up for earlier ones.
    """
    for group in _groups(list(_linear(model))):
        inputs = [torch.zeros(layer.in_features, layer.in_features, device=layer.weight.device) for *_, layer in group]
        watches = [(layer, partial(_add_products, seen)) for (*_, layer), seen in zip(group, inputs, strict=True)]
        read(model, examples, watches)
        for (parent, name, layer), seen in zip(group, inputs, strict=True):
            setattr(parent, name, _rounded(layer, seen))
    return model


def save(model: Any, out: Path) -> None:
    """Write a model that `quantise` made as a model folder."""
    out.mkdir(parents=True, exist_ok=True)
    state = dict(_packed(model.state_dict()))
    save_torch_state_dict(state, out, shared_tensors_to_discard=list(model.all_tied_weights_keys))
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    path = out / "config.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**known, "quantization_config": _scheme(model)}, indent=2) + "\n", encoding="utf-8")


def is_int8(folder: Path) -> bool:
    """Whether `save` wrote this folder."""
    path = folder / "config.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(known.get("quantization_config", {}).get("quant_method") == METHOD)


def load(folder: Path, device: str) -> Any:
    """The model of a folder that `save` wrote, in evaluation mode.

    Raises:
        ArtifactError: if its weights are not those of its configuration.
    """
    config = AutoConfig.from_pretrained(str(folder))
    del config.quantization_config
    with no_init_weights():  # the memory of weights that are replaced unread is never touched
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parent, name, layer in _linear(model):
        setattr(parent, name, Int8Linear(layer.in_features, layer.out_features, layer.bias))
    state = {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in _unpacked(load_file(file))}
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    if bad := sorted({*missing, *unknown} - set(model.all_tied_weights_keys)):
        raise ArtifactError(f"{folder} is damaged: its weights and its config.json do not agree on {bad[0]}.")
    model.tie_weights()
    model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model.to(device).eval()


def _linear(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Parent, name and layer of every linear layer but the output layer."""
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, torch.nn.Linear) and layer is not model.get_output_embeddings()
    ]
    yield from found  # all found before any is replaced


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
    weight = layer.weight.detach().float()
    scale = (weight.abs().amax(1, keepdim=True) / _TOP).clamp(min=1e-8).to(torch.bfloat16)
    small = Int8Linear(layer.in_features, layer.out_features, None if layer.bias is None else layer.bias.detach())
    small.weight, small.weight_scale = round_columns(weight, scale, inputs, _TOP), scale
    return small


def _multiply(rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`rows` (n, in) times the transposed weight, (n, out)."""
    if len(rows) <= _FEW and rows.device.type == "cpu" and rows.dtype == torch.bfloat16:
        return torch._weight_int8pack_mm(rows.contiguous(), weight, scale.flatten())
    return torch.nn.functional.linear(rows, weight.to(rows.dtype)) * scale.t()


def _packed(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in state.items():
        if value.dtype == torch.int8:  # four to an integer of 32 bits, the first in its lowest byte, 0 stored as 128
            yield f"{key}_packed", (value.to(torch.int16) + _OFFSET).to(torch.uint8).view(torch.int32)
            yield f"{key}_shape", torch.tensor(value.shape)
        else:
            yield key, value


def _unpacked(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in state.items():
        if key.endswith(".weight_packed"):
            whole = (value.contiguous().view(torch.uint8).to(torch.int16) - _OFFSET).to(torch.int8)
            yield key.removesuffix("_packed"), whole
        elif not key.endswith(".weight_shape"):
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
