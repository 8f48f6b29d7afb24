"""Write a merged model folder as one GGUF file, which OpenVINO GenAI, llama.cpp and Ollama read."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quant_shape_to_byte_shape
from safetensors import safe_open
from transformers import AutoConfig

from llmops.errors import ArtifactError
from llmops.model.gguf import vocabulary
from llmops.model.gguf.pipeline import FILE
from llmops.model.gguf.rounding import BLOCK, FINER, KINDS, Floats, Form, rounded

#: Model types that OpenVINO GenAI reads, and what GGUF calls them.
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_FILE_TYPES: Mapping[Form, int] = {"f16": 1, "q8_0": 7, "q4_1": 3}
_FLOATS = {Kind.F32: np.float32, Kind.F16: np.float16}
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_TURNED = ("attn_q.weight", "attn_k.weight")
_MATRICES = (
    *_TURNED, "attn_v.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
)  # fmt: skip


def supported(folder: Path) -> str:
    """Why the model in a folder cannot be served as a GGUF file; empty if it can."""
    config = AutoConfig.from_pretrained(str(folder))
    if config.model_type not in _ARCHITECTURES:
        return f"OpenVINO GenAI reads no GGUF file of a {config.model_type}"
    if getattr(config, "quantization_config", None):
        return "its weights are quantised"
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        return f"its positions are scaled ({rope.get('rope_type')}), which OpenVINO GenAI reads from no GGUF file"
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"} or _window(config):
        return "its attention has a window"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its layers have biases"
    widths = (config.hidden_size, config.intermediate_size, _head(config) * config.num_attention_heads)
    if any(width % BLOCK for width in widths):
        return f"its layers are no multiple of {BLOCK} wide"
    if not any(folder.glob("*.safetensors")):
        return "its weights are not in safetensors files"
    return vocabulary.refusal(folder)


def write_folder(folder: Path, out: Path, form: Form) -> None:
    """Write the model of a folder that is `supported` to the new folder `out`, in a form that serving loads.

    Raises:
        ArtifactError: see `write_gguf`.
    """
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix in (".json", ".jinja") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)
    write_gguf(folder, out / FILE, form)


def write_gguf(folder: Path, out: Path, form: Form) -> None:
    """Write the model of a folder that is `supported` to the file `out`, tensor by tensor.

    Matrices have the form that is asked for, embedding and output layer nothing coarser than 8 bits, all else 32 bits.

    Raises:
        ArtifactError: if weights are missing or unknown, or too large for 16 bits.
    """
    config = AutoConfig.from_pretrained(str(folder))
    architecture = _ARCHITECTURES[config.model_type]
    partial = out.with_name(f".{out.name}.partial")
    logging.getLogger("gguf").setLevel(logging.WARNING)
    writer = GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[architecture])
    _add_shape(writer, config)
    writer.add_file_type(_FILE_TYPES[form])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.add_tokenizer(writer, folder, config.vocab_size)
    with ExitStack() as files:
        tensors = _tensors(folder, config, architecture, files)
        for name, (file, key) in tensors.items():
            shape = file.get_slice(key).get_shape()
            kind = _kind(name, shape, form)
            floats = _FLOATS.get(kind)
            stored = tuple(shape) if floats else quant_shape_to_byte_shape(shape, kind)
            dtype = np.dtype(floats or np.uint8)
            writer.add_tensor_info(name, stored, dtype, prod(stored) * dtype.itemsize, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (file, key) in tensors.items():
            weight = _ordered(name, file.get_tensor(key).float().numpy(), config)
            kind = _kind(name, weight.shape, form)
            made = weight if kind == Kind.F32 else rounded(weight, kind)
            if kind == Kind.F16 and not np.isfinite(made).all():
                raise ArtifactError(
                    f"{folder}: {key} has weights that 16 bits cannot hold; it cannot become a GGUF file."
                )
            writer.write_tensor_data(made)
    writer.close()
    partial.rename(out)


def _tensors(folder: Path, config: Any, architecture: gguf.MODEL_ARCH, files: ExitStack) -> dict[str, tuple[Any, str]]:
    """GGUF's name of each tensor → the open file that has it, and its name there."""
    places: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = files.enter_context(safe_open(path, "pt"))
        places |= {key: file for key in file.keys() if not key.endswith("inv_freq")}  # noqa: SIM118
    if config.tie_word_embeddings:
        places.pop("lm_head.weight", None)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    found = {names.get_name(key, (".weight", ".bias")) or key: (file, key) for key, file in places.items()}
    if wrong := sorted(found.keys() ^ _expected(config)):
        raise ArtifactError(f"{folder} is damaged: its weights and its config.json do not agree on {wrong[0]}.")
    return found


def _expected(config: Any) -> set[str]:
    """GGUF's names of all tensors of a model."""
    parts = [*_MATRICES, "attn_norm.weight", "ffn_norm.weight"]
    parts += [f"attn_{n}.bias" for n in "qkv"] if config.model_type == "qwen2" else []
    parts += [f"attn_{n}_norm.weight" for n in "qk"] if config.model_type == "qwen3" else []
    layers = {f"blk.{n}.{part}" for n in range(config.num_hidden_layers) for part in parts}
    ends = {_EMBEDDING, "output_norm.weight"} | (set() if config.tie_word_embeddings else {_OUTPUT})
    return layers | ends


def _kind(name: str, shape: Sequence[int], form: Form) -> Kind:
    """How a tensor is stored: vectors as they are."""
    if len(shape) < 2:
        return Kind.F32
    return KINDS[FINER[form] if name in (_EMBEDDING, _OUTPUT) else form]


def _ordered(name: str, weight: Floats, config: Any) -> Floats:
    """The rows in GGUF's order: a Llama's queries and keys have the two halves of a head interleaved."""
    if _ARCHITECTURES[config.model_type] != gguf.MODEL_ARCH.LLAMA or not name.endswith(_TURNED):
        return weight
    halves = weight.reshape(-1, 2, _head(config) // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head(config))
    writer.add_value_length(_head(config))
    writer.add_rope_dimension_count(_head(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _head(config: Any) -> int:
    """Width of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _window(config: Any) -> bool:
    """Whether tokens see only those near them."""
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)
