"""The forms of a trained model that `compress` chooses from, each a folder for `answering.open_model`.

The full form is `f16`, a GGUF file of the merged model for the engine `openvino`, or `bf16`, the merged model that
`train` wrote. `q8_0` is a GGUF file, too. `nf4` is made of base and adapter, since a merged model rounded to NF4 loses
most of the adapter (a loss of 0.04 became 2.1). All others are made of the merged model. `fp8` is transformers' own
(weights in 8-bit floats, a scale for every block of 128 × 128) and needs a GPU that computes in them; such a folder is
read without one too, and then computes in bfloat16. `pruned` and `recovered` are smaller models in the full form.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import FineGrainedFP8Config

from llmops.config import Compress
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import ConfigError
from llmops.model.base.load import ADAPTER, Model, free_memory, load_model, load_tokenizer, nf4
from llmops.model.gguf.write import Form, explain_unsupported, write_folder

FP8_FROM = (8, 9)  #: compute capability of the oldest GPUs that multiply in FP8


@dataclass(frozen=True, slots=True)
class Material:
    """The inputs of the forms."""

    config: Compress
    merged: Path  #: the merged model in bfloat16
    base: str
    adapter: Path
    examples: Sequence[Tokens]  #: the training split

    @property
    def full(self) -> str:
        """Return the name of the form that all others are compared with.

        Raises:
            ConfigError: if the configuration names a GGUF file, and this model cannot be written as one.
        """
        if self.config.full == "f16":
            return _checked("f16", self.merged)
        gpu = torch.cuda.is_available()
        return "bf16" if self.config.full == "bf16" or gpu or explain_unsupported(self.merged) else "f16"


def make(name: str, material: Material, scratch: Path) -> Path:
    """Return the folder of a form. It is made below `scratch` if it does not exist.

    An unfinished form of an interrupted run is made anew, but its training continues from the checkpoints.
    """
    if name == "bf16":
        return material.merged
    folder = _once(scratch / name, lambda out: _MAKERS[name](material, out, scratch))
    if name in ("pruned", "recovered") and material.full == "f16":
        return _once(scratch / f"{name}-f16", lambda out: write_folder(folder, out, "f16"))
    return folder


def _once(folder: Path, maker: Callable[[Path], None]) -> Path:
    begun = folder.with_name(f".{folder.name}.partial")
    if not folder.exists():
        shutil.rmtree(begun, ignore_errors=True)
        maker(begun)
        free_memory()
        begun.rename(folder)
    return folder


def _gguf(form: Form, material: Material, out: Path, _: Path) -> None:
    write_folder(material.merged, out, _checked(form, material.merged))


def _checked(form: Form, merged: Path) -> Form:
    if why := explain_unsupported(merged):
        raise ConfigError(f"The section compress names {form}, but this model cannot be a GGUF file: {why}.")
    return form


def _nf4(material: Material, out: Path, _: Path) -> None:
    _save(load_model(material.base, nf4()), material, out)
    shutil.copytree(material.adapter, out / ADAPTER)


def _fp8(material: Material, out: Path, _: Path) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < FP8_FROM:
        raise ConfigError(
            "compress.variants names fp8, which is made on a GPU of compute capability "
            f"{'.'.join(map(str, FP8_FROM))} or newer (Ada, Hopper); leave it out here."
        )
    _save(load_model(material.merged, FineGrainedFP8Config()), material, out)


def _pruned(material: Material, out: Path, _: Path) -> None:
    from llmops.model.compress.prune import prune  # not above: it brings all that trains, which takes seconds

    _save(prune(load_model(material.merged), material.examples, material.config.prune), material, out)


def _recovered(material: Material, out: Path, scratch: Path) -> None:
    from llmops.model.compress.prune import recover

    pruned = _once(scratch / "pruned", lambda made: _pruned(material, made, scratch))
    recover(pruned, material.examples, material.config, scratch / "recovery", out)


def _save(model: Model, material: Material, out: Path) -> None:
    model.save_pretrained(out)
    load_tokenizer(material.merged).save_pretrained(out)


_MAKERS: dict[str, Callable[[Material, Path, Path], None]] = {
    "f16": partial(_gguf, "f16"),
    "q8_0": partial(_gguf, "q8_0"),
    "nf4": _nf4,
    "fp8": _fp8,
    "pruned": _pruned,
    "recovered": _recovered,
}
