"""The variants of a trained model that `compress` chooses from, each a folder for `load_servable`.

`bf16` is the merged model that `train` wrote. `nf4` is made of base and adapter, since a merged model rounded to NF4
loses most of the adapter (a loss of 0.04 became 2.1). All others are made of the merged model. `fp8` is
transformers' own (weights in 8-bit floats, a scale for every block of 128 × 128) and needs a GPU that computes in them;
such a folder is read without one too, and then computes in bfloat16.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import FineGrainedFP8Config

from llmops.config import Compress
from llmops.errors import ConfigError
from llmops.features.tokenize import Tokens
from llmops.model.base.load import ADAPTER, free_memory, load_model, load_tokenizer, nf4
from llmops.model.compress.prune import prune, recover
from llmops.model.compress.quantise import quantise, save_int8

FULL = "bf16"  #: what all others are compared with
FP8_FROM = (8, 9)  #: compute capability of the oldest GPUs that multiply in FP8


@dataclass(frozen=True, slots=True)
class Material:
    """What variants are made of."""

    config: Compress
    full: Path  #: the merged model in bfloat16
    base: str
    adapter: Path
    examples: Sequence[Tokens]  #: the training split


def make(name: str, material: Material, scratch: Path) -> Path:
    """The folder of a variant below `scratch`; it is made if it is not there.

    What an interrupted run left of it is made anew, but training goes on from its checkpoints.
    """
    if name == FULL:
        return material.full
    folder, partial = scratch / name, scratch / f".{name}.partial"
    if not folder.exists():
        shutil.rmtree(partial, ignore_errors=True)
        _MAKERS[name](material, partial, scratch)
        load_tokenizer(material.full).save_pretrained(partial)
        free_memory()
        partial.rename(folder)
    return folder


def _nf4(material: Material, out: Path, _: Path) -> None:
    load_model(material.base, nf4()).save_pretrained(out)
    shutil.copytree(material.adapter, out / ADAPTER)


def _int8(material: Material, out: Path, _: Path) -> None:
    save_int8(quantise(load_model(material.full), material.examples), out)


def _fp8(material: Material, out: Path, _: Path) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < FP8_FROM:
        raise ConfigError(
            "compress.variants names fp8, which is made on a GPU of compute capability "
            f"{'.'.join(map(str, FP8_FROM))} or newer (Ada, Hopper); leave it out here."
        )
    load_model(material.full, FineGrainedFP8Config()).save_pretrained(out)


def _pruned(material: Material, out: Path, _: Path) -> None:
    prune(load_model(material.full), material.examples, material.config.prune).save_pretrained(out)


def _recovered(material: Material, out: Path, scratch: Path) -> None:
    pruned = make("pruned", material, scratch)
    recover(pruned, material.examples, material.config, scratch / "recovery", out)


_MAKERS: dict[str, Callable[[Material, Path, Path], None]] = {
    "nf4": _nf4,
    "int8": _int8,
    "fp8": _fp8,
    "pruned": _pruned,
    "recovered": _recovered,
}
