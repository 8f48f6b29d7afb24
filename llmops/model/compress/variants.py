"""The forms of a trained model that `compress` chooses from, each a folder for `inference.open_model`.

The full form is `f16`, a GGUF file of the merged model for the engine `openvino`, or `bf16`, the merged model that
`train` wrote. `q8_0` is a GGUF file, too. `nf4` is made of base and adapter, since a merged model rounded to NF4 loses
most of the adapter (a loss of 0.04 became 2.1). All others are made of the merged model. `fp8` is transformers' own
(weights in 8-bit floats, a scale for every block of 128 × 128) and needs a GPU that computes in them; such a folder is
read without one too, and then computes in bfloat16.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import FineGrainedFP8Config

from llmops.config import Compress
from llmops.frame.errors import ConfigError
from llmops.model.base.classifier import GRAPH_FILE
from llmops.model.base.encoder import convert_to_openvino
from llmops.model.base.hashes import copy_model
from llmops.model.base.load import ADAPTER_FOLDER, Model, free_memory, load_model, load_tokenizer, make_nf4_config
from llmops.model.compress.system_prompt import write_prompted
from llmops.model.gguf.write import GgufForm, explain_unsupported, write_gguf_folder
from llmops.prompts.encoder import is_encoder

FP8_CAPABILITY = (8, 9)  #: compute capability of the oldest GPUs that multiply in FP8


@dataclass(frozen=True, slots=True)
class VariantInputs:
    """The inputs that the forms are made of."""

    config: Compress
    merged: Path  #: the merged model in bfloat16
    base: str
    adapter: Path

    def with_system_prompt(self, scratch: Path) -> "VariantInputs":
        """Return inputs whose merged model has the configured system prompt, if there is one.

        Raises:
            ConfigError: see `write_prompted`.
        """
        text = self.config.system_prompt
        if not text:
            return self
        merged = _make_folder_once(scratch / "prompted", lambda out: write_prompted(self.merged, text, out))
        return replace(self, merged=merged)

    @property
    def full(self) -> str:
        """Return the name of the form that all others are compared with.

        Raises:
            ConfigError: if the configuration names a GGUF file, and this model cannot be written as one.
        """
        if is_encoder(self.merged):
            return "f32"
        if self.config.full == "f16":
            return _require_gguf("f16", self.merged)
        gpu = torch.cuda.is_available()
        return "bf16" if self.config.full == "bf16" or gpu or explain_unsupported(self.merged) else "f16"


def make_variant(name: str, inputs: VariantInputs, scratch: Path) -> Path:
    """Return the folder of a form. It is made below `scratch` if it does not exist."""
    return inputs.merged if name == "bf16" else _make_folder_once(scratch / name, partial(_WRITERS[name], inputs))


def _make_folder_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder, made if it does not exist. An unfinished one of an interrupted run is made anew."""
    if not folder.exists():
        partial_folder = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        make(partial_folder)
        free_memory()
        partial_folder.rename(folder)
    return folder


def _write_gguf(form: GgufForm, inputs: VariantInputs, out: Path) -> None:
    write_gguf_folder(inputs.merged, out, _require_gguf(form, inputs.merged))


def _require_gguf(form: GgufForm, merged: Path) -> GgufForm:
    if reason := explain_unsupported(merged):
        raise ConfigError(f"The section compress names {form}, but this model cannot be a GGUF file: {reason}.")
    return form


def _write_nf4(inputs: VariantInputs, out: Path) -> None:
    _save_model(load_model(inputs.base, make_nf4_config()), inputs, out)
    shutil.copytree(inputs.adapter, out / ADAPTER_FOLDER)


def _write_fp8(inputs: VariantInputs, out: Path) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < FP8_CAPABILITY:
        raise ConfigError(
            "compress.variants names fp8, which is made on a GPU of compute capability "
            f"{'.'.join(map(str, FP8_CAPABILITY))} or newer (Ada, Hopper); leave it out here."
        )
    _save_model(load_model(inputs.merged, FineGrainedFP8Config()), inputs, out)


def _save_model(model: Model, inputs: VariantInputs, out: Path) -> None:
    model.save_pretrained(out)
    load_tokenizer(inputs.merged).save_pretrained(out)


def _write_graph(inputs: VariantInputs, out: Path, eight_bits: bool = False) -> None:
    """Write a classifier: its files for transformers, and its graph for OpenVINO with weights in 32 or 8 bits."""
    if not is_encoder(inputs.merged):
        raise ConfigError("compress.variants names int8, which is a form of encoders; take q8_0 for a language model.")
    import openvino

    graph = convert_to_openvino(inputs.merged)
    if eight_bits:
        import nncf

        nncf.set_log_level(logging.WARNING)
        with contextlib.redirect_stdout(sys.stderr):  # its progress; our commands print their results to stdout
            graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
    copy_model(inputs.merged, out)
    openvino.save_model(graph, out / GRAPH_FILE, compress_to_fp16=False)


_WRITERS: dict[str, Callable[[VariantInputs, Path], None]] = {
    "f16": partial(_write_gguf, "f16"),
    "f32": _write_graph,
    "int8": partial(_write_graph, eight_bits=True),
    "q8_0": partial(_write_gguf, "q8_0"),
    "nf4": _write_nf4,
    "fp8": _write_fp8,
}
