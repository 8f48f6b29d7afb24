"""Linear layers with weights in 8 bits, one scale per output channel: half the memory of bfloat16, almost its quality.

    weight ≈ q · scale,   q an integer in -127 … 127,   scale = max |weight| of the channel / 127

On disk it is the `pack-quantized` layout of the library compressed-tensors. Embedding and output layer stay in
bfloat16. Activations are not rounded: in 8 bits, with a scale for each token, they cost a fine-tuned SmolLM2-135M 0.02
nats per answer token, ten times what 8-bit weights cost. Torch's dynamic quantisation is no way out: it has one scale
for the activations of a whole batch, so that an answer would depend on what else is in the batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from llmops.errors import ArtifactError

METHOD = "compressed-tensors"  #: `quant_method` in the `config.json` of such a folder

OFFSET = 128  #: added to an integer on disk


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
        """`x` of shape (…, in) to (…, out), in the numbers of `x`."""
        out = torch.nn.functional.linear(x, self.weight.to(x.dtype)) * self.weight_scale.flatten()
        return out if self.bias is None else out + self.bias


def is_int8(folder: Path) -> bool:
    """Whether the model in this folder has such layers."""
    path = folder / "config.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return bool(known.get("quantization_config", {}).get("quant_method") == METHOD)


def load(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """Load the model of a folder that `is_int8`, in evaluation mode, with all that is not in 8 bits in `dtype`.

    Raises:
        ArtifactError: if its weights are not those of its configuration.
    """
    config = AutoConfig.from_pretrained(str(folder))
    del config.quantization_config
    with no_init_weights():  # these weights are replaced below: filling them would only touch their memory
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for parent, name, layer in linear_layers(model):
        setattr(parent, name, Int8Linear(layer.in_features, layer.out_features, layer.bias))
    stored = (pair for file in sorted(folder.glob("*.safetensors")) for pair in _unpacked(load_file(file)))
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in stored}
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    if bad := sorted({*missing, *unknown} - set(model.all_tied_weights_keys)):
        raise ArtifactError(f"{folder} is damaged: its weights and its config.json do not agree on {bad[0]}.")
    model.tie_weights()
    model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model.to(device).eval()


def linear_layers(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Parent, name and layer of every linear layer but the output layer."""
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, torch.nn.Linear) and layer is not model.get_output_embeddings()
    ]
    yield from found  # all found before any is replaced


def _unpacked(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file under the names of the model's parameters; a packed one as 8-bit integers."""
    for key, value in state.items():
        if key.endswith(".weight_packed"):
            whole = (value.contiguous().view(torch.uint8).to(torch.int16) - OFFSET).to(torch.int8)
            yield key.removesuffix("_packed"), whole
        elif not key.endswith(".weight_shape"):
            yield key, value
