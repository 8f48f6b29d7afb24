"""Which parameters train: exactly the adapters of every linear layer, for three architectures; and what config does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from llmops.config import Train
from llmops.errors import TrainingError
from llmops.features.tokenize import Tokens
from llmops.model.base.load import load_model
from llmops.model.base.packing import mean_loss
from llmops.model.training.fit import fit
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, adapt, trainable

FOUND = Hyperparameters(learning_rate=5e-3, rank=4, batch=4)
SHAPE: dict[str, Any] = dict(
    vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
)
EXAMPLES = [Tokens(str(i), [20 + i, 30, 40 + i, 50, 60, 70 + i], 3) for i in range(8)]

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LLAMA = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PHI3 = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
BERT = (*BERT, "intermediate.dense", "output.dense")


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2)).to(torch.bfloat16)


def phi3() -> Any:
    return Phi3ForCausalLM(Phi3Config(**SHAPE, num_key_value_heads=2, sliding_window=8)).to(torch.bfloat16)


def bert() -> Any:
    return BertForSequenceClassification(BertConfig(**SHAPE, num_labels=3)).to(torch.bfloat16)


def training(model: Any) -> set[str]:
    return {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}


def adapters(*layers: str) -> set[str]:
    return {f"{layer}.lora_{ab}.default.weight" for layer in layers for ab in "AB"}


@pytest.mark.parametrize("make, layers", [(llama, LLAMA), (phi3, PHI3)])
def test_every_linear_layer_of_a_block_gets_an_adapter_and_nothing_else(make: Any, layers: tuple[str, ...]) -> None:
    model = adapt(make(), Train(), FOUND)
    assert training(model) == adapters(*(f"model.layers.{i}.{layer}" for i in range(2) for layer in layers))
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_a_classifier_trains_its_head_too() -> None:
    model = adapt(bert(), Train(), FOUND)
    layers = [f"bert.encoder.layer.{i}.{layer}" for i in range(2) for layer in BERT]
    head = {f"classifier.modules_to_save.default.{kind}" for kind in ("weight", "bias")}
    assert training(model) == adapters(*layers, "bert.pooler.dense") | head
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    rows, labels = torch.randint(1, 500, (6, 9)), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(input_ids=rows, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)


def test_target_modules_are_those_of_the_config() -> None:
    model = adapt(phi3(), Train(target_modules=("qkv_proj",)), FOUND)
    assert training(model) == adapters(*(f"model.layers.{i}.self_attn.qkv_proj" for i in range(2)))


def test_a_target_module_that_only_another_architecture_has_is_an_error() -> None:
    """`o_proj` is there, so peft would quietly train a third of what was asked for."""
    with pytest.raises(TrainingError, match=r"'q_proj'.*Phi3ForCausalLM.*qkv_proj"):
        adapt(phi3(), Train(target_modules=("q_proj", "v_proj", "o_proj")), FOUND)


def test_scaling_is_alpha_over_rank_or_over_its_root() -> None:
    def scaling(config: Train) -> float:
        model = adapt(llama(), config, FOUND)
        return float(model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"])

    assert scaling(Train()) == 2.0
    assert scaling(Train(alpha=4)) == 1.0
    assert scaling(Train(alpha=4, rslora=True)) == 2.0


def test_dora_trains_a_magnitude_too(tiny_base: Path, tmp_path: Path) -> None:
    config = Train(dora=True, epochs=4)
    model = trainable(str(tiny_base), config, FOUND)
    extra = {n for n in training(model) if "lora_magnitude_vector" in n}
    assert len(extra) == len(training(model)) // 3 == 14
    before, weights = mean_loss(model, EXAMPLES), {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    fit(model, EXAMPLES, config, FOUND, tmp_path)
    assert (after := mean_loss(model, EXAMPLES)) < before
    assert all(not torch.equal(p, weights[n]) for n, p in model.named_parameters() if n in weights)
    model.save_pretrained(tmp_path / "adapter")
    save_merged(str(tiny_base), tmp_path / "adapter", "qlora", tmp_path / "merged")
    merged = mean_loss(load_model(tmp_path / "merged"), EXAMPLES)
    assert merged == pytest.approx(after, abs=0.02)
