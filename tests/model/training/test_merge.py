"""Merging layer by layer gives what merging the whole model in float32 gives, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from llmops.config import Train
from llmops.errors import TrainingError
from llmops.model.base import weights
from llmops.model.base.catalog import catalogue
from llmops.model.base.load import load_model, load_servable, nf4
from llmops.model.base.packing import mean_loss
from llmops.model.training import merge
from llmops.model.training.fit import fit
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import trainable

from .test_training import CONFIG, FOUND, examples

SHAPE: dict[str, Any] = dict(
    vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0,
)  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "phi3, fused": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
    "qwen2, with biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "base"
    FAMILIES[request.param]().to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_adapter(base: Path, config: Train, out: Path) -> Path:
    """An adapter whose every weight changes something."""
    model = trainable(str(base), config, FOUND)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    model.save_pretrained(out)
    return out


def whole(base: Path, adapter: Path, method: str) -> dict[str, torch.Tensor]:
    """Merged as a whole in float32: dequantised, cast, merged by peft, rounded."""
    plain = load_model(base, nf4()).dequantize() if method == "qlora" else load_model(base)
    merged = PeftModel.from_pretrained(plain.to(torch.float32), str(adapter)).merge_and_unload()
    state: dict[str, torch.Tensor] = merged.to(torch.bfloat16).state_dict()
    return state


def assert_equal(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_model(folder).state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("settings", [{}, {"rslora": True}, {"dora": True}, {"target_modules": ("o_proj",)}], ids=str)
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_it_is_what_merging_the_whole_model_gives(
    base: Path, method: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "SHARD", 2**16)
    adapter = random_adapter(base, Train(method=method, **settings), tmp_path / "adapter")
    save_merged(str(base), adapter, method, tmp_path / "merged")
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 3
    assert_equal(tmp_path / "merged", whole(base, adapter, method))
    moved = load_model(base).state_dict(), load_model(tmp_path / "merged").state_dict()
    assert any(not torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


@pytest.mark.slow
def test_the_embedded_model_is_merged_the_same(tmp_path: Path) -> None:
    gguf = catalogue()[0].packaged()
    assert gguf
    base = weights.unpack(gguf, tmp_path)
    adapter = random_adapter(base, Train(), tmp_path / "adapter")
    save_merged(str(base), adapter, "qlora", tmp_path / "merged")
    assert_equal(tmp_path / "merged", whole(base, adapter, "qlora"))
    _, tokenizer = load_servable(tmp_path / "merged")
    assert tokenizer.chat_template


def test_a_base_in_several_files_is_merged_the_same(tiny_base: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    load_model(tiny_base).save_pretrained(base, max_shard_size="100KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    adapter = random_adapter(base, Train(), tmp_path / "adapter")
    save_merged(str(base), adapter, "qlora", tmp_path / "merged")
    assert_equal(tmp_path / "merged", whole(tiny_base, adapter, "qlora"))


def test_a_base_with_other_names_in_its_files_is_merged_the_same(tiny_base: Path, tmp_path: Path) -> None:
    """As a model without its output layer saves itself; transformers finds the names."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    stored = load_file(base / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    for method in ("qlora", "lora"):
        adapter = random_adapter(base, Train(method=method), tmp_path / method)
        save_merged(str(base), adapter, method, tmp_path / f"{method}-merged")
        assert_equal(tmp_path / f"{method}-merged", whole(tiny_base, adapter, method))


def test_a_base_that_is_stored_in_4_bits_is_merged_the_same(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    load_model(tiny_base, nf4()).save_pretrained(base)
    load_servable(tiny_base)[1].save_pretrained(base)
    adapter = random_adapter(base, Train(), tmp_path / "adapter")
    save_merged(str(base), adapter, "qlora", tmp_path / "merged")
    assert_equal(tmp_path / "merged", whole(tiny_base, adapter, "qlora"))
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_an_output_layer_that_was_trained_is_the_embedding_no_more(tiny_base: Path, tmp_path: Path) -> None:
    """Merged into the weight that both share, it would change the embedding, which was not trained."""
    adapter = random_adapter(tiny_base, Train(method="lora", target_modules=("lm_head",)), tmp_path / "adapter")
    save_merged(str(tiny_base), adapter, "lora", tmp_path / "merged")
    model = load_model(tmp_path / "merged")
    embedding = load_model(tiny_base).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert not torch.equal(model.get_output_embeddings().weight, embedding)
    trained = mean_loss(PeftModel.from_pretrained(load_model(tiny_base), str(adapter)), examples())
    assert mean_loss(model, examples()) == pytest.approx(trained, abs=0.02)


def test_an_adapter_of_another_base_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tiny_base, Train(), tmp_path / "adapter")
    stored = load_file(adapter / "adapter_model.safetensors")
    odd = {name.replace("layers.1.", "layers.9."): tensor for name, tensor in stored.items()}
    save_file(odd, adapter / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match=r"layers\.9\..*base does not have"):
        save_merged(str(tiny_base), adapter, "qlora", tmp_path / "merged")


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"target_modules": ("c_attn",)}], ids=str)
@pytest.mark.parametrize("names", ["its own", "bare"])
@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_layers_whose_weights_are_the_other_way_round_are_merged_the_same(
    tokenizer: Any, tmp_path: Path, method: str, names: str, settings: dict[str, Any]
) -> None:
    """GPT-2's `Conv1D`, which is a linear layer once it is in NF4; the Hub's file of it has names without a prefix."""
    torch.manual_seed(0)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shape = GPT2Config(vocab_size=600, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    GPT2LMHeadModel(shape).to(torch.bfloat16).save_pretrained(base)
    tokenizer.save_pretrained(base)
    if names == "bare":
        stored = load_file(base / "model.safetensors")
        bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
        save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    random_adapter(base, Train(method=method, **settings), adapter)
    save_merged(str(base), adapter, method, tmp_path / "merged")
    turned = {f"{n}.weight" for n, m in load_model(base).named_modules() if isinstance(m, Conv1D)}
    expected = whole(base, adapter, method)
    if method == "qlora":
        expected = {name: tensor.T if name in turned else tensor for name, tensor in expected.items()}
    assert len(turned) == 8
    assert_equal(tmp_path / "merged", expected)


@pytest.fixture
def mixture(tokenizer: Any, tmp_path: Path) -> Path:
    """A base with experts, which are slices of one tensor."""
    torch.manual_seed(0)
    config = MixtralConfig(**SHAPE, num_local_experts=2, num_experts_per_tok=1)
    MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_of_a_mixture_of_experts_only_linear_layers_are_adapted(mixture: Path, method: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"experts.*train\.target_modules"):  # before anything is trained
        trainable(str(mixture), Train(method=method), FOUND)
    named = Train(method=method, target_modules=("q_proj", "v_proj"))
    adapter = random_adapter(mixture, named, tmp_path / "adapter")
    save_merged(str(mixture), adapter, method, tmp_path / "merged")
    assert_equal(tmp_path / "merged", whole(mixture, adapter, method))


def test_an_adapter_on_experts_is_not_lost_in_silence(mixture: Path, tmp_path: Path) -> None:
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(load_model(mixture), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(TrainingError, match="experts"):
        save_merged(str(mixture), tmp_path / "adapter", "lora", tmp_path / "merged")


def test_an_adapter_that_is_not_whole_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    adapter = random_adapter(tiny_base, Train(), tmp_path / "adapter")
    stored = load_file(adapter / "adapter_model.safetensors")
    save_file({n: t for n, t in stored.items() if ".layers.1." not in n}, adapter / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match=r"lacks .*layers\.1\."):
        save_merged(str(tiny_base), adapter, "qlora", tmp_path / "merged")


@pytest.fixture(scope="module")
def learned(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter")
    model = trainable(str(tiny_base), CONFIG, FOUND)
    fit(model, examples(), CONFIG, FOUND, out)
    model.save_pretrained(out / "adapter")
    return out / "adapter"


def beside(base: Path, adapter: Path, quantised: bool) -> Any:
    """The model as it was trained: the adapter on its base."""
    return PeftModel.from_pretrained(load_model(base, nf4() if quantised else None), str(adapter)).train()


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_merging_keeps_what_was_learned(tiny_base: Path, learned: Path, method: str, tmp_path: Path) -> None:
    trained = mean_loss(beside(tiny_base, learned, method == "qlora"), examples())
    save_merged(str(tiny_base), learned, method, tmp_path)
    assert mean_loss(load_model(tmp_path), examples()) == pytest.approx(trained, abs=0.02)
    assert trained < mean_loss(load_model(tiny_base), examples()) - 0.05


def test_merged_model_is_saved_plain_and_whole(tiny_base: Path, learned: Path, tmp_path: Path) -> None:
    save_merged(str(tiny_base), learned, "qlora", tmp_path / "servable")
    model, tokenizer = load_servable(tmp_path / "servable")
    stored = load_file(tmp_path / "servable" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert not any("Linear4bit" in type(m).__name__ or "Lora" in type(m).__name__ for m in model.modules())
    assert tokenizer.chat_template
    trained = mean_loss(beside(tiny_base, learned, quantised=True), examples())
    assert mean_loss(model, examples()) == pytest.approx(trained, abs=0.02)


@pytest.mark.gpu
def test_a_gpu_rounds_as_it_did_for_the_training(tiny_base: Path, learned: Path, tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    save_merged(str(tiny_base), learned, "qlora", tmp_path / "merged")
    assert torch.cuda.max_memory_allocated() < 2**24  # one layer at a time
    assert_equal(tmp_path / "merged", whole(tiny_base, learned, "qlora"))
