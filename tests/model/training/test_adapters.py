"""Which parameters train: exactly the adapters of every linear layer, for three architectures; and what config does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.config import Train
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import TrainingError
from llmops.model.base.packing import compute_mean_loss
from llmops.model.training.fit import fit
from llmops.model.training.qlora import add_adapter, load_trainable_model
from tests.model.samples import HYPERPARAMETERS, make_causal_model

EXAMPLES = [Tokens(str(i), [20 + i, 30, 40 + i, 50, 60, 70 + i], 3) for i in range(8)]

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
LLAMA = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
PHI3 = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


def list_trained(model: Any) -> set[str]:
    return {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}


def list_adapters(*layers: str) -> set[str]:
    return {f"{layer}.lora_{ab}.default.weight" for layer in layers for ab in "AB"}


@pytest.mark.parametrize("family, layers", [("llama", LLAMA), ("phi3", PHI3)])
def test_every_linear_layer_of_a_block_gets_an_adapter_and_nothing_else(family: str, layers: tuple[str, ...]) -> None:
    model = add_adapter(make_causal_model(family).to(torch.bfloat16), Train(), HYPERPARAMETERS)
    assert list_trained(model) == list_adapters(*(f"model.layers.{i}.{layer}" for i in range(2) for layer in layers))
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_target_modules_are_those_of_the_config() -> None:
    """A third of what the second one asks for is there, and peft would quietly train that."""
    model = add_adapter(make_causal_model("phi3"), Train(target_modules=("qkv_proj",)), HYPERPARAMETERS)
    assert list_trained(model) == list_adapters(*(f"model.layers.{i}.self_attn.qkv_proj" for i in range(2)))
    with pytest.raises(TrainingError, match=r"'q_proj'.*Phi3ForCausalLM.*qkv_proj"):
        add_adapter(make_causal_model("phi3"), Train(target_modules=("q_proj", "v_proj", "o_proj")), HYPERPARAMETERS)


def test_scaling_is_alpha_over_rank_or_over_its_root() -> None:
    def find_scaling(config: Train) -> float:
        model = add_adapter(make_causal_model("llama"), config, HYPERPARAMETERS)
        return float(model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"])

    assert find_scaling(Train()) == 2.0
    assert find_scaling(Train(alpha=4)) == 1.0
    assert find_scaling(Train(alpha=4, rslora=True)) == 2.0


def test_dora_trains_a_magnitude_too(base: str, tmp_path: Path) -> None:
    config = Train(dora=True, epochs=4)
    model = load_trainable_model(base, config, HYPERPARAMETERS)
    extra = {n for n in list_trained(model) if "lora_magnitude_vector" in n}
    assert len(extra) == len(list_trained(model)) // 3 == 14
    before, weights = (
        compute_mean_loss(model, EXAMPLES),
        {n: p.clone() for n, p in model.named_parameters() if p.requires_grad},
    )
    fit(model, EXAMPLES, config, HYPERPARAMETERS, tmp_path)
    assert compute_mean_loss(model, EXAMPLES) < before
    assert all(not torch.equal(p, weights[n]) for n, p in model.named_parameters() if n in weights)
