"""The writer of a merged model folder as one GGUF file, for OpenVINO GenAI, llama.cpp and Ollama."""

import logging
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quant_shape_to_byte_shape, quantize
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoConfig

from llmops.frame.errors import ArtifactError
from llmops.model.gguf import vocabulary
from llmops.model.gguf.worker import GGUF_FILE

log = logging.getLogger(__name__)

GgufForm = Literal["f16", "q8_0"]  #: number format of the matrices; vectors have 32 bits
QUANTIZATION_TYPES: Mapping[str, Kind] = {"f16": Kind.F16, "q8_0": Kind.Q8_0}

#: model types that OpenVINO GenAI reads → GGUF's name
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
_SCALE_BLOCK = 32  #: weights of a row that share a scale in q8_0
_INTERLEAVED = ("attn_q.weight", "attn_k.weight")
_LAYER_TENSORS = (
    *_INTERLEAVED, "attn_v.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight",
    "attn_norm.weight", "ffn_norm.weight",
)  # fmt: skip


def explain_unsupported(folder: Path) -> str:
    """Return the reason why the model in a folder cannot be served as a GGUF file; empty if it can."""
    config = AutoConfig.from_pretrained(str(folder))
    if config.model_type not in _ARCHITECTURES:
        return f"OpenVINO GenAI reads no GGUF file of a {config.model_type}"
    if getattr(config, "quantization_config", None):
        return "its weights are quantised"
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default" or rope.get("partial_rotary_factor", 1) != 1:
        return f"its positions are scaled ({rope.get('rope_type')}), which OpenVINO GenAI reads from no GGUF file"
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"} or window:
        return "its attention has a window"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its layers have biases"
    widths = (config.hidden_size, config.intermediate_size, _get_head_size(config) * config.num_attention_heads)
    if any(width % _SCALE_BLOCK for width in widths):
        return f"its layers are no multiple of {_SCALE_BLOCK} wide"
    if not any(folder.glob("*.safetensors")):
        return "its weights are not in safetensors files"
    return vocabulary.explain_unsupported(folder)


def convert_to_gguf(folder: Path, out: Path) -> Path:
    """Write the model of a folder to `out` in 16 bits, and return `out`. Return `folder` if that is not supported."""
    if reason := explain_unsupported(folder):
        log.info("%s is not run by OpenVINO: %s", folder, reason)
        return folder
    write_gguf_folder(folder, out, "f16")
    return out


def write_gguf_folder(folder: Path, out: Path, form: GgufForm) -> None:
    """Write the servable GGUF folder `out` of a supported model folder, see `explain_unsupported`.

    Raises:
        ArtifactError: see `write_gguf`.
    """
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix in (".json", ".jinja") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)
    write_gguf(folder, out / GGUF_FILE, form)


def write_gguf(folder: Path, out: Path, form: GgufForm) -> None:
    """Write the model of a folder to the file `out`, tensor by tensor.

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
        tensors = _map_tensors(folder, config, architecture, files)
        for name, (file, key) in tensors.items():
            shape = file.get_slice(key).get_shape()
            kind = Kind.F32 if len(shape) < 2 else QUANTIZATION_TYPES[form]
            dtype = np.dtype({Kind.F32: np.float32, Kind.F16: np.float16}.get(kind, np.uint8))
            stored = quant_shape_to_byte_shape(shape, kind) if kind == Kind.Q8_0 else tuple(shape)
            writer.add_tensor_info(name, stored, dtype, prod(stored) * dtype.itemsize, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (file, key) in tensors.items():
            weight = _reorder_rows(name, file.get_tensor(key).float().numpy(), config)
            if weight.ndim > 1:
                with np.errstate(over="ignore"):
                    weight = quantize(weight, QUANTIZATION_TYPES[form])
            if weight.dtype == np.float16 and not np.isfinite(weight).all():
                raise ArtifactError(f"{folder}: {key} has weights that 16 bits cannot hold; it cannot be a GGUF file.")
            writer.write_tensor_data(weight)
    writer.close()
    partial.rename(out)


def _map_tensors(
    folder: Path, config: Any, architecture: gguf.MODEL_ARCH, files: ExitStack
) -> dict[str, tuple[Any, str]]:
    """Return GGUF's name of each tensor → its open file, and its name there."""
    tensors: dict[str, tuple[Any, str]] = {}
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for path in sorted(folder.glob("*.safetensors")):
        file = files.enter_context(safe_open(path, "pt"))
        for key in file.keys():  # noqa: SIM118
            tied = config.tie_word_embeddings and key == "lm_head.weight"
            if not tied and not key.endswith("inv_freq"):
                tensors[names.get_name(key, (".weight", ".bias")) or key] = (file, key)
    if wrong := sorted(tensors.keys() ^ _list_expected_tensors(config)):
        raise ArtifactError(f"{folder} is damaged: its weights and its config.json do not agree on {wrong[0]}.")
    return tensors


def _list_expected_tensors(config: Any) -> set[str]:
    parts = [*_LAYER_TENSORS]
    parts += [f"attn_{n}.bias" for n in "qkv"] if config.model_type == "qwen2" else []
    parts += [f"attn_{n}_norm.weight" for n in "qk"] if config.model_type == "qwen3" else []
    layers = {f"blk.{n}.{part}" for n in range(config.num_hidden_layers) for part in parts}
    output = set() if config.tie_word_embeddings else {"output.weight"}
    return layers | output | {"token_embd.weight", "output_norm.weight"}


def _reorder_rows(name: str, weight: NDArray[Any], config: Any) -> NDArray[Any]:
    """Return a weight with its rows in GGUF's order: Llama's queries and keys interleave the two halves of a head."""
    if _ARCHITECTURES[config.model_type] != gguf.MODEL_ARCH.LLAMA or not name.endswith(_INTERLEAVED):
        return weight
    halves = weight.reshape(-1, 2, _get_head_size(config) // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_get_head_size(config))
    writer.add_value_length(_get_head_size(config))
    writer.add_rope_dimension_count(_get_head_size(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _get_head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
