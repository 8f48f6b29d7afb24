"""Weights in 8 bits: close to what they were, in a folder that comes back the same, on any device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmops.errors import ArtifactError
from llmops.features.tokenize import Tokens
from llmops.model.base import int8
from llmops.model.base.int8 import Int8Linear
from llmops.model.base.load import load_model, load_servable, load_tokenizer
from llmops.model.compress import quantise
from llmops.model.compress.gptq import round_columns

EXAMPLES = [Tokens(str(n), list(range(20 + n, 60 + n)), 5) for n in range(12)]


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "servable"
    quantise.save_int8(quantise.quantise(load_model(tiny_base), EXAMPLES), out)
    load_tokenizer(tiny_base).save_pretrained(out)
    return out


def logits(model: object, rows: int = 2, tokens: int = 9) -> torch.Tensor:
    ids = torch.randint(20, 400, (rows, tokens), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits.float()  # type: ignore[operator]
    return found


@pytest.mark.parametrize("rows", [1, 3, 12, 13, 70])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_computes_what_the_exact_one_does_within_a_per_cent(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    exact = torch.nn.Linear(96, 64, bias=bias).to(torch.bfloat16)
    x = torch.randn(rows, 96, dtype=torch.bfloat16)
    x[:, 3] *= 30  # what a model's few large activations look like
    layer = quantise._rounded(exact, torch.eye(96))
    assert layer.weight.dtype == torch.int8
    with torch.inference_mode():
        expected, found = exact(x).float(), layer(x[None])[0].float()
        alone = torch.cat([layer(row[None]) for row in x]).float()
    assert float((found - expected).norm() / expected.norm()) < 0.01
    assert float((found - alone).norm() / alone.norm()) < 0.005  # whatever the size of the batch


def test_rounding_is_to_255_levels_a_channel(tiny_base: Path, folder: Path) -> None:
    state, full = load_servable(folder)[0].state_dict(), load_model(tiny_base).state_dict()
    name = "model.layers.0.mlp.down_proj.weight"
    weight, scale = state[name], state[f"{name}_scale"].float()
    assert weight.dtype == torch.int8 and scale.shape == (64, 1)
    assert int(weight.abs().amax()) == 127
    assert float((weight.float() * scale - full[name].float()).norm() / full[name].float().norm()) < 0.02


def test_rounding_minds_the_inputs() -> None:
    """What inputs go together is what errors are made up for within; to the nearest level, they add up."""
    make = torch.Generator().manual_seed(0)
    x = torch.randn(500, 8, generator=make) @ torch.randn(8, 96, generator=make)  # inputs of rank 8
    weight = torch.randn(64, 96, generator=make)
    scale = weight.abs().amax(1, keepdim=True) / 127
    nearest = (weight / scale).round().clamp(-127, 127)
    found = round_columns(weight, scale, x.T @ x, 127)

    def error(whole: torch.Tensor) -> float:
        return float((x @ (whole.float() * scale - weight).T).norm() / (x @ weight.T).norm())

    assert int(found.abs().max()) <= 127
    assert error(found) < 0.3 * error(nearest)
    assert torch.equal(round_columns(weight, scale, torch.eye(96), 127).float(), nearest)  # nothing to make up with
    assert torch.equal(round_columns(weight, scale, torch.zeros(96, 96), 127).float(), nearest)  # never used


def test_groups_of_layers_fit_in_memory_and_miss_none(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = list(int8.linear_layers(load_model(tiny_base)))
    assert [len(g) for g in quantise._groups(layers)] == [14]
    monkeypatch.setattr(quantise, "_ROOM", 4 * 3 * 64**2)
    groups = list(quantise._groups(layers))
    assert [item for group in groups for item in group] == layers and max(map(len, groups)) == 3
    model = quantise.quantise(load_model(tiny_base), EXAMPLES)
    assert sum(isinstance(m, Int8Linear) for m in model.modules()) == 14


def test_the_folder_comes_back_the_same_and_half_as_large(tiny_base: Path, folder: Path) -> None:
    model, tokenizer = load_servable(folder)
    assert torch.equal(logits(model), logits(quantise.quantise(load_model(tiny_base), EXAMPLES)))
    assert tokenizer.chat_template and not model.training
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("Int8Linear") == 14 and kinds.count("Linear") == 1  # the output layer
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    full = load_servable(tiny_base)[0]
    assert model.generation_config.to_dict() == full.generation_config.to_dict()
    assert float((logits(model) - logits(full)).norm() / logits(full).norm()) < 0.05
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, tiny_base)]
    assert sizes[1] - sizes[0] > 0.9 * sum(m.weight.nbytes for m in model.modules() if isinstance(m, Int8Linear))


def test_the_folder_says_how_it_is_stored_in_the_words_of_compressed_tensors(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    scheme = config["quantization_config"]
    assert (scheme["quant_method"], scheme["format"], scheme["ignore"]) == (
        "compressed-tensors", "pack-quantized", ["lm_head"]
    )  # fmt: skip
    assert config["architectures"] == ["LlamaForCausalLM"]
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    weight = load_servable(folder)[0].state_dict()[name]
    packed = stored[f"{name}_packed"]
    assert packed.dtype == torch.int32 and stored[f"{name}_shape"].tolist() == [64, 128]
    for place in range(4):
        assert torch.equal((packed >> 8 * place & 255) - 128, weight[:, place::4].to(torch.int32))
    assert int8.is_int8(folder)


def test_other_folders_are_not_taken_for_it(tiny_base: Path, tmp_path: Path) -> None:
    assert not int8.is_int8(tiny_base) and not int8.is_int8(tmp_path)


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.self_attn.q_proj.weight_scale"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"q_proj.weight_scale"):
        load_servable(tmp_path)


@pytest.mark.gpu
def test_it_runs_on_a_gpu(folder: Path) -> None:
    from llmops.model.base.answering import TorchModel, answer

    model, tokenizer = load_servable(folder)
    assert model.device.type == "cuda"
    assert len(answer(TorchModel(model, tokenizer), [("Hi", ""), ("Why?", "")], 4)) == 2
