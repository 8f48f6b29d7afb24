"""Merging layer by layer gives what merging the whole model in float32 gives, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from llmops.config import Train
from llmops.frame.errors import TrainingError
from llmops.model.base.load import load_model, load_servable, make_nf4_config
from llmops.model.base.packing import compute_mean_loss
from llmops.model.training import merge
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import load_trainable_model
from tests.model.samples import HYPERPARAMETERS, make_causal_model, make_tokens, write_random_adapter

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "phi3, fused": {},
    "qwen2, with biases": {},
    "mixtral, with experts": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt2, the other way round": {"n_positions": 64},
}


def save_model(family: str, tokenizer: Any, folder: Path) -> Path:
    model = make_causal_model(family.partition(",")[0], **FAMILIES[family])
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def merge_whole_model(base: Path, adapter: Path, method: str) -> dict[str, torch.Tensor]:
    """Merge a whole model in float32: dequantise, cast, merge by peft, round."""
    plain = load_model(base, make_nf4_config()).dequantize() if method == "qlora" else load_model(base)
    merged = PeftModel.from_pretrained(plain.to(torch.float32), str(adapter)).merge_and_unload()
    state: dict[str, torch.Tensor] = merged.to(torch.bfloat16).state_dict()
    return state


def assert_equal(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = load_model(folder).state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(
    ("family", "method", "settings"),
    [
        ("llama", "qlora", {}),
        ("llama, tied", "lora", {"dora": True}),
        ("llama, tied", "qlora", {"target_modules": ("o_proj",)}),
        ("phi3, fused", "qlora", {"dora": True}),
        ("qwen2, with biases", "lora", {"rslora": True}),
        ("mixtral, with experts", "qlora", {"target_modules": ("q_proj", "v_proj")}),
        ("gpt2, the other way round", "qlora", {"dora": True}),
        ("gpt2, the other way round", "lora", {"dora": True}),
    ],
)
def test_it_is_what_merging_the_whole_model_gives(
    family: str, method: str, settings: dict[str, Any], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2's `Conv1D` is a linear layer once it is in NF4; the Hub's file of it has names without a prefix."""
    monkeypatch.setattr(merge, "SHARD_BYTES", 2**14)
    base = save_model(family, tokenizer, tmp_path / "base")
    if family.startswith("gpt2"):
        remove_prefix(base, "transformer.")
    adapter = write_random_adapter(base, Train(method=method, **settings), tmp_path / "adapter")
    save_merged(str(base), adapter, method, tmp_path / "merged")
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 3
    expected = merge_whole_model(base, adapter, method)
    turned = {f"{n}.weight" for n, m in load_model(base).named_modules() if isinstance(m, Conv1D)}
    assert len(turned) == (8 if family.startswith("gpt2") else 0)
    if method == "qlora":
        expected = {name: tensor.T if name in turned else tensor for name, tensor in expected.items()}
    assert_equal(tmp_path / "merged", expected)
    model, merged_tokenizer = load_servable(tmp_path / "merged")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and merged_tokenizer.chat_template
    before = load_model(base).state_dict()
    assert any(not torch.equal(before[name], expected[name]) for name in before)


def remove_prefix(base: Path, prefix: str) -> None:
    """Rename the weights in the file: a model without its output layer saves itself so, and so is GPT-2 on the Hub."""
    stored = load_file(base / "model.safetensors")
    renamed = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    save_file(renamed, base / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "method"), [("several files", "qlora"), ("other names", "qlora"), ("other names", "lora"), ("nf4", "qlora")]
)
def test_a_base_that_is_stored_otherwise_merges_alike(tiny_base: Path, tmp_path: Path, how: str, method: str) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    if how == "other names":
        remove_prefix(base, "model.")
    else:
        (base / "model.safetensors").unlink()
        load_model(tiny_base, make_nf4_config() if how == "nf4" else None).save_pretrained(base, max_shard_size="100KB")
        assert len(list(base.glob("*.safetensors"))) > 1
    adapter = write_random_adapter(base, Train(method=method), tmp_path / "adapter")
    save_merged(str(base), adapter, method, tmp_path / "merged")
    assert_equal(tmp_path / "merged", merge_whole_model(tiny_base, adapter, method))
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


def test_an_output_layer_that_was_trained_is_the_embedding_no_more(tiny_base: Path, tmp_path: Path) -> None:
    """Merged into the weight that both share, it would change the embedding, which was not trained."""
    adapter = write_random_adapter(tiny_base, Train(method="lora", target_modules=("lm_head",)), tmp_path / "adapter")
    save_merged(str(tiny_base), adapter, "lora", tmp_path / "merged")
    model = load_model(tmp_path / "merged")
    embedding = load_model(tiny_base).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert not torch.equal(model.get_output_embeddings().weight, embedding)
    trained = compute_mean_loss(PeftModel.from_pretrained(load_model(tiny_base), str(adapter)), make_tokens(16))
    assert compute_mean_loss(model, make_tokens(16)) == pytest.approx(trained, abs=0.02)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda name: name.replace("layers.1.", "layers.9."), r"layers\.9\..*base does not have"),
        (lambda name: "" if ".layers.1." in name else name, r"lacks .*layers\.1\."),
    ],
)
def test_an_adapter_of_another_base_or_not_whole_is_an_error(
    tiny_base: Path, tmp_path: Path, odd: Callable[[str], str], message: str
) -> None:
    adapter = write_random_adapter(tiny_base, Train(), tmp_path / "adapter")
    stored = load_file(adapter / "adapter_model.safetensors")
    save_file({odd(n): t for n, t in stored.items() if odd(n)}, adapter / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match=message):
        save_merged(str(tiny_base), adapter, "qlora", tmp_path / "merged")


def test_of_a_mixture_of_experts_only_linear_layers_are_adapted(tokenizer: Any, tmp_path: Path) -> None:
    """Experts are slices of one tensor; an adapter on them is refused before anything is trained."""
    mixture = save_model("mixtral, with experts", tokenizer, tmp_path / "base")
    with pytest.raises(TrainingError, match=r"experts.*train\.target_modules"):
        load_trainable_model(str(mixture), Train(), HYPERPARAMETERS)


@pytest.mark.gpu
def test_a_gpu_rounds_as_it_did_for_the_training(tiny_base: Path, tmp_path: Path) -> None:
    adapter = write_random_adapter(tiny_base, Train(), tmp_path / "adapter")
    torch.cuda.reset_peak_memory_stats()
    save_merged(str(tiny_base), adapter, "qlora", tmp_path / "merged")
    assert torch.cuda.max_memory_allocated() < 2**24  # one layer at a time
    assert_equal(tmp_path / "merged", merge_whole_model(tiny_base, adapter, "qlora"))
