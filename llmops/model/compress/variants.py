"""The forms of a trained model that `compress` chooses from, each a folder for `answering.open_model`.

Where a CPU serves, and the architecture is one that GGUF and OpenVINO GenAI know, the full form is `f16`, a GGUF file
of the merged model; else it is `bf16`, the merged model that `train` wrote. `q8_0` and `q4_1` are GGUF files too.
`nf4` is made of base and adapter, since a merged model rounded to NF4 loses most of the adapter (a loss of 0.04 became
2.1). `w8a16` has weights in 8 bits as vLLM reads them (see `base.int8`). `fp8` is transformers' own (weights in 8-bit
floats, a scale for every block of 128 × 128) and needs a GPU that computes in them; such a folder is read without one
too, and then computes in bfloat16. `pruned` and `recovered` are smaller models in the full form.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import FineGrainedFP8Config

from llmops.artifacts import link
from llmops.config import Compress
from llmops.errors import ConfigError
from llmops.features.tokenize import Tokens
from llmops.model.base.load import ADAPTER, free_memory, load_model, load_tokenizer, nf4
from llmops.model.compress.prune import prune, recover
from llmops.model.compress.quantise import quantise, save_int8
from llmops.model.gguf.rounding import KINDS, Form
from llmops.model.gguf.write import supported, write_folder

FP8_FROM = (8, 9)  #: compute capability of the oldest GPUs that multiply in FP8


@dataclass(frozen=True, slots=True)
class Material:
    """What forms are made of."""

    config: Compress
    merged: Path  #: the merged model in bfloat16
    base: str
    adapter: Path  #: not there if nothing was trained
    examples: Sequence[Tokens]  #: the training split; the validation split if nothing was trained


def full_form(merged: Path) -> str:
    """What all others are compared with: `f16` where a CPU serves the merged model as a GGUF file, else `bf16`."""
    return "bf16" if torch.cuda.is_available() or supported(merged) else "f16"


def to_try(config: Compress, full: str) -> Sequence[str]:
    """The smaller forms that are made; none by default where a CPU serves a model that cannot be a GGUF file."""
    if config.variants is None and full == "bf16" and not torch.cuda.is_available():
        return ()
    return config.tried(torch.cuda.is_available())


def make(name: str, material: Material, scratch: Path) -> Path:
    """The folder of a form below `scratch`; it is made if it is not there."""
    if name == "bf16":
        return material.merged
    return _once(scratch / name, material, lambda out: _MAKERS[name](material, out, scratch))


def _once(folder: Path, material: Material, maker: Callable[[Path], None]) -> Path:
    """What an interrupted run left of a folder is made anew, but training goes on from its checkpoints."""
    partial = folder.with_name(f".{folder.name}.partial")
    if not folder.exists():
        shutil.rmtree(partial, ignore_errors=True)
        maker(partial)
        load_tokenizer(material.merged).save_pretrained(partial)
        free_memory()
        partial.rename(folder)
    return folder


def _gguf(form: Form) -> Callable[[Material, Path, Path], None]:
    def maker(material: Material, out: Path, _: Path) -> None:
        if why := supported(material.merged):
            raise ConfigError(f"compress.variants names {form}, but this model cannot become a GGUF file: {why}.")
        write_folder(material.merged, out, form)

    return maker


def _nf4(material: Material, out: Path, _: Path) -> None:
    load_model(material.base, nf4(), torch.bfloat16).save_pretrained(out)
    if material.adapter.is_dir():
        shutil.copytree(material.adapter, out / ADAPTER)


def _w8a16(material: Material, out: Path, _: Path) -> None:
    save_int8(quantise(load_model(material.merged), material.examples), out)


def _fp8(material: Material, out: Path, _: Path) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < FP8_FROM:
        raise ConfigError(
            "compress.variants names fp8, which is made on a GPU of compute capability "
            f"{'.'.join(map(str, FP8_FROM))} or newer (Ada, Hopper); leave it out here."
        )
    load_model(material.merged, FineGrainedFP8Config(), torch.bfloat16).save_pretrained(out)


def _pruned(material: Material, out: Path, scratch: Path) -> None:
    _in_full_form(_pruned_weights(material, scratch), out)


def _recovered(material: Material, out: Path, scratch: Path) -> None:
    pruned = _pruned_weights(material, scratch)

    def maker(weights: Path) -> None:
        recover(pruned, material.examples, material.config, scratch / "recovery", weights)

    _in_full_form(_once(scratch / "recovered-weights", material, maker), out)


def _pruned_weights(material: Material, scratch: Path) -> Path:
    def maker(weights: Path) -> None:
        model = prune(load_model(material.merged), material.examples, material.config.prune)
        model.to(torch.bfloat16).save_pretrained(weights)

    return _once(scratch / "pruned-weights", material, maker)


def _in_full_form(weights: Path, out: Path) -> None:
    if full_form(weights) == "bf16":
        shutil.copytree(weights, out, copy_function=link)
    else:
        write_folder(weights, out, "f16")


_MAKERS: dict[str, Callable[[Material, Path, Path], None]] = {
    **{form: _gguf(form) for form in KINDS},
    "nf4": _nf4,
    "w8a16": _w8a16,
    "fp8": _fp8,
    "pruned": _pruned,
    "recovered": _recovered,
}
