"""In which numbers models compute here, and that what is saved does not depend on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmops.config import Compress, Train
from llmops.model.base import load
from llmops.model.base.load import load_model, load_servable, nf4, precision
from llmops.model.compress import variants
from llmops.model.compress.variants import Material
from llmops.model.training.fit import fit
from llmops.model.training.qlora import Hyperparameters, trainable

from ..training.test_training import examples

FOUND = Hyperparameters(learning_rate=5e-3, rank=4, batch=4)
ON_A_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@ON_A_CPU
@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("model name AMD EPYC; flags fpu fma avx avx2 f16c", torch.float32),
        ("model name Intel(R) Xeon(R); flags avx2 avx512f avx512bw avx512_vnni", torch.float32),
        ("model name AMD EPYC; flags avx2 avx512f avx512_bf16", torch.bfloat16),
        ("model name Intel(R) Xeon(R); flags avx512f amx_bf16 amx_tile", torch.bfloat16),
        ("CPU implementer 0x41; Features fp asimd i8mm bf16", torch.bfloat16),
        ("arm", torch.float32),
    ],
)
def test_a_processor_computes_in_what_it_has_instructions_for(
    said: str, numbers: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "processor", lambda: said)
    assert precision() == numbers


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.dtype]:
    """As on a processor that computes in these."""
    monkeypatch.setattr(load, "precision", lambda: request.param)
    yield request.param


@ON_A_CPU
def test_all_layers_compute_in_the_same_numbers_and_learn(
    numbers: torch.dtype, tiny_base: Path, tmp_path: Path
) -> None:
    model = trainable(str(tiny_base), Train(), FOUND)
    assert model.dtype == numbers
    seen: set[torch.dtype] = set()
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            layer.register_forward_hook(lambda *said: seen.add(said[2].dtype))
    losses = [row["loss"] for row in fit(model, examples(), Train(epochs=4), FOUND, tmp_path)]
    assert seen == {numbers} and losses[-1] < losses[0]
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@ON_A_CPU
@pytest.mark.parametrize("form", ["nf4", "w8a16", "pruned"])
def test_a_form_is_saved_in_16_bits_or_fewer_and_read_back_in_what_is_computed(
    form: str, numbers: torch.dtype, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "full_form", lambda _: "bf16")
    material = Material(Compress(), tiny_base, str(tiny_base), tmp_path / "none", examples(4))
    made = variants.make(form, material, tmp_path / "made")
    stored = load_file(made / "model.safetensors")
    scales = ".weight."  # of NF4, in the middle of their names
    assert torch.float32 not in {tensor.dtype for name, tensor in stored.items() if scales not in name}
    config = json.loads((made / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config.get("quantization_config", {}).get("bnb_4bit_compute_dtype", "bfloat16") == "bfloat16"
    model, _ = load_servable(made)
    assert model.dtype == numbers
    assert {m.compute_dtype for m in model.modules() if hasattr(m, "compute_dtype")} <= {numbers}


@ON_A_CPU
def test_nf4_rounds_alike_whatever_is_computed_in(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(load, "precision", lambda dtype=dtype: dtype)
        layer = load_model(tiny_base, nf4()).model.layers[0].self_attn.q_proj
        held.append(layer.weight.data)
    assert torch.equal(*held)
