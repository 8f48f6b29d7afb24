"""Structured pruning: remove the MLP neurons that are used least, and train the remaining model again.

The result is an ordinary bfloat16 model with narrower MLPs. It is smaller and faster everywhere and needs no special
kernel. Every layer keeps the same number of neurons, the configuration's `intermediate_size`.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llmops.config import Compress, Train
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import ConfigError
from llmops.model.base.load import Model, free_memory
from llmops.model.base.packing import compute_answer_loss, pack
from llmops.model.training.fit import fit
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, load_trainable_model

log = logging.getLogger(__name__)

MAX_EXAMPLES = 128  #: examples that are read to measure the neurons, evenly spread over the given ones
NEURON_STEP = 32  #: neurons are kept in multiples of this, which makes matrix kernels fast

_RECOVERY_VALUES = {"rank": 32, "batch": 8}


def prune(model: Model, examples: Sequence[Tokens], share: float) -> Model:
    """Remove about `share` of the neurons of every MLP, in place.

    A neuron writes its activation times its column of the down projection into the residual stream. Its use is
    the root mean square of that over the tokens of `examples`: |weight| times |activation| as in Wanda
    (arXiv:2306.11695), summed over the column.

    Raises:
        ConfigError: if the model's MLPs are not gated ones (gate, up and down projections, or gate and up fused).
    """
    mlps = list(_find_mlps(model))
    width = int(mlps[0].down_proj.in_features)
    keep = max(NEURON_STEP, round(width * (1 - share) / NEURON_STEP) * NEURON_STEP)
    for mlp, importance in zip(mlps, _compute_importance(model, mlps, examples), strict=True):
        _remove_neurons(mlp, importance.topk(keep).indices.sort().values)
    model.config.intermediate_size = keep
    log.info("pruned %d layers from %d to %d neurons", len(mlps), width, keep)
    return model


def recover(pruned: Path, examples: Sequence[Tokens], config: Compress, scratch: Path, out: Path) -> None:
    """Train the model at `pruned` again with LoRA and write it merged. Continue from checkpoints in `scratch`."""
    train = Train(method="lora", epochs=config.recovery_epochs, seed=config.seed)
    hyperparameters = Hyperparameters(learning_rate=config.recovery_learning_rate, **_RECOVERY_VALUES)
    model = load_trainable_model(str(pruned), train, hyperparameters)
    fit(model, examples, train, hyperparameters, scratch)
    model.save_pretrained(scratch / "adapter")
    del model
    free_memory()
    save_merged(str(pruned), scratch / "adapter", "lora", out)


def _find_mlps(model: Model) -> Iterator[Any]:
    found = [m for m in model.modules() if hasattr(m, "down_proj") and (_is_gated(m) or _is_fused(m))]
    widths = {int(m.down_proj.in_features) for m in found}
    if len(found) != getattr(model.config, "num_hidden_layers", 0) or len(widths) != 1:
        raise ConfigError(
            f"compress.variants names pruned, but {type(model).__name__} does not have one gated MLP of the same width "
            "in every layer; leave pruned and recovered out."
        )
    yield from found


def _is_gated(mlp: Any) -> bool:
    return hasattr(mlp, "gate_proj") and hasattr(mlp, "up_proj")


def _is_fused(mlp: Any) -> bool:
    return hasattr(mlp, "gate_up_proj")  # Phi-3: the rows of gate, then those of up


@torch.no_grad()
def _compute_importance(model: Model, mlps: Sequence[Any], examples: Sequence[Tokens]) -> list[torch.Tensor]:
    squares = [torch.zeros(mlp.down_proj.in_features, device=mlp.down_proj.weight.device) for mlp in mlps]
    hooks = [
        mlp.down_proj.register_forward_pre_hook(partial(_add_squares, total))
        for mlp, total in zip(mlps, squares, strict=True)
    ]
    chosen = [examples[i] for i in range(0, len(examples), max(1, len(examples) // MAX_EXAMPLES))][:MAX_EXAMPLES]
    for start in range(0, len(chosen), 8):
        compute_answer_loss(model, {k: v.to(model.device) for k, v in pack(chosen[start : start + 8]).items()})
    for hook in hooks:
        hook.remove()
    return [s.sqrt() * mlp.down_proj.weight.float().norm(dim=0) for mlp, s in zip(mlps, squares, strict=True)]


def _add_squares(total: torch.Tensor, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    total += inputs[0].flatten(0, -2).float().square().sum(0)


def _remove_neurons(mlp: Any, keep: torch.Tensor) -> None:
    width = mlp.down_proj.in_features
    rows = torch.cat([keep, keep + width]) if _is_fused(mlp) else keep
    for layer in [mlp.gate_up_proj] if _is_fused(mlp) else [mlp.gate_proj, mlp.up_proj]:
        layer.weight = torch.nn.Parameter(layer.weight.detach()[rows].clone(), requires_grad=False)
        if layer.bias is not None:
            layer.bias = torch.nn.Parameter(layer.bias.detach()[rows].clone(), requires_grad=False)
        layer.out_features = len(rows)
    down = mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight.detach()[:, keep].clone(), requires_grad=False)
    down.in_features = len(keep)
