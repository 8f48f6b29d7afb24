"""The model that trains: a frozen base and a LoRA adapter.

QLoRA: arXiv:2305.14314. LoRA: arXiv:2106.09685. rsLoRA: arXiv:2312.03732. DoRA: arXiv:2402.09353.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from transformers import set_seed
from transformers.pytorch_utils import Conv1D

from llmops.config import Train
from llmops.frame.errors import TrainingError
from llmops.model.base.encoder import is_classifier
from llmops.model.base.load import Model, load_model, make_nf4_config
from llmops.prompts.encoder import is_encoder


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The hyperparameters that `tune` searches for."""

    learning_rate: float
    rank: int
    batch: int  #: examples per optimiser step
    epochs: float = 3.0
    alpha: int = 0  #: 0: twice the rank
    dropout: float = 0.0
    warmup: float = 0.05  #: share of the steps with rising learning rate


def find_fixed_values(config: Train) -> dict[str, float]:
    """Return the hyperparameters that the section `train` fixes, by name. They are not searched."""
    zero_is_a_value = ("dropout", "warmup")
    values = {f.name: getattr(config, f.name) for f in fields(Hyperparameters)}
    return {name: value for name, value in values.items() if value or (value is not None and name in zero_is_a_value)}


def apply_fixed_values(hyperparameters: Hyperparameters, config: Train) -> Hyperparameters:
    """Return hyperparameters with the values that the section `train` fixes."""
    return replace(hyperparameters, **find_fixed_values(config))  # type: ignore[arg-type]  # a value of the field of the same name


def load_trainable_model(base: str, config: Train, hyperparameters: Hyperparameters) -> Model:
    """Load a fresh base in train mode, with a new adapter, or with the method `full` without one.

    The base is quantised when the method is `qlora`, unless it is an encoder.

    peft's `prepare_model_for_kbit_training` is not used, because it casts all unquantised weights to float32. A frozen
    base and an adapter in float32 are enough.

    Raises:
        TrainingError: if a target module is not in the model, or the method is `full` and the base no encoder.
    """
    encoder = is_encoder(base)
    if config.method != "full":
        quantised = config.method == "qlora" and not encoder
        return add_adapter(load_model(base, make_nf4_config() if quantised else None), config, hyperparameters)
    if not encoder:
        raise TrainingError("train.method: full is for encoders; take qlora or lora for a language model.")
    set_seed(config.seed)
    model = load_model(base).train()
    model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)
    return model


def add_adapter(model: Model, config: Train, hyperparameters: Hyperparameters) -> Model:
    """Freeze a model and give it an adapter that trains.

    Without `target_modules` every linear layer of the architecture gets one, but the output: a Llama's seven a block,
    Phi-3's fused `qkv_proj` and `gate_up_proj`.

    Raises:
        TrainingError: if a target module is not in the model, or its adapter could not be merged.
    """
    hyperparameters = apply_fixed_values(hyperparameters, config)
    set_seed(config.seed)
    lora_config = LoraConfig(
        r=hyperparameters.rank,
        lora_alpha=hyperparameters.alpha or 2 * hyperparameters.rank,
        lora_dropout=hyperparameters.dropout,
        use_rslora=config.rslora,
        use_dora=config.dora,
        target_modules=_choose_target_modules(model, config.target_modules),
        task_type=TaskType.SEQ_CLS if is_classifier(model) else TaskType.CAUSAL_LM,
        # DistilBERT's head has two layers. peft trains both in full, because of their names, so neither has an adapter.
        exclude_modules="pre_classifier|classifier" if is_classifier(model) else None,
    )
    adapted = get_peft_model(model, lora_config).train()
    lora: Any = adapted.peft_config["default"]
    if isinstance(lora.target_modules, set):  # in one order, so that the same training writes the same bytes
        lora.target_modules = sorted(lora.target_modules)
    check_mergeable(dict(adapted.get_base_model().named_modules()))
    _compute_in_bfloat16(adapted)
    return adapted


def check_mergeable(modules: Mapping[str, Any]) -> None:
    """Make sure that every adapter is on a layer whose weight it can be merged into.

    In a mixture of experts, peft's `all-linear` includes the experts, which are slices of one tensor.

    Raises:
        TrainingError: naming a layer that cannot be merged.
    """
    if unmergeable := [name for name, module in modules.items() if isinstance(module, ParamWrapper)]:
        raise TrainingError(
            f"The adapter would be on {unmergeable[0]}, which is no linear layer, so it cannot be merged into the "
            "base: a mixture of experts. Name linear layers, such as q_proj, in train.target_modules."
        )


def _choose_target_modules(model: Model, names: Sequence[str]) -> list[str] | str:
    """Return the layers that get an adapter, for peft: the named ones, or every linear one if none is named.

    peft ignores unknown names if it knows one. `q_proj, v_proj, o_proj` on a Phi-3, which has a fused `qkv_proj`, would
    train only `o_proj`. Here an unknown name is an error.
    """
    if not names:
        return "all-linear"
    kinds = (torch.nn.Linear, Conv1D)  # the latter is GPT-2's
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)}
    if unknown := sorted(set(names) - linear):
        raise TrainingError(
            f"train.target_modules names {unknown[0]!r}, which is no linear layer of {type(model).__name__}; it has "
            f"{', '.join(sorted(linear))}."
        )
    return list(names)


def _compute_in_bfloat16(model: Model) -> None:
    """Let the adapter, whose weights are float32, compute in bfloat16 as the base does.

    Otherwise peft casts what enters every layer to float32 and keeps it for the backward pass: 2.36 GB instead of 2.09
    for the embedded model and 8 examples, with the same losses to two decimals.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
    model.forward = torch.autocast(model.device.type, torch.bfloat16)(model.forward)


def count_parameters(model: Any) -> dict[str, int]:
    """Count the parameters that train, and all parameters (quantised ones unpacked)."""
    if isinstance(model, PeftModel):
        training, total = model.get_nb_trainable_parameters()
        return {"trained": int(training), "parameters": int(total)}
    return dict.fromkeys(("trained", "parameters"), int(model.num_parameters()))
