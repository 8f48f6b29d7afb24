"""How much memory each stage takes, from a model's real shape, and how much the machine has.

The decision is on what the machine has, not on what happens to be free: the same configuration is taken or refused
whatever else runs. `tests/model/base/test_memory.py` compares needs with measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from llmops.machine import GIB, total_memory
from llmops.model.base.load import precision
from llmops.model.base.shape import Shape

#: In which a model is held.
Form = Literal["bf16", "f16", "q8_0", "q4_1", "nf4", "w8a16", "fp8", "pruned", "recovered"]
Stage = Literal["select", "tune", "train", "merge", "compress", "evaluate", "deploy", "serve"]
STAGES: tuple[Stage, ...] = ("select", "tune", "train", "merge", "compress", "evaluate", "deploy", "serve")

SHARD = GIB // 2  #: bytes of a file of the merged model; a larger tensor has a file of its own

#: Bits of a linear layer's weight; embedding, output layer and norms have at most 16. NF4 has double quantisation
#: (QLoRA, arXiv:2305.14314, section 3); the others have scales for a row or a block beside the weights.
BITS: Mapping[Form, float] = {
    "bf16": 16, "f16": 16, "pruned": 16, "recovered": 16, "q8_0": 8.5, "w8a16": 8.05, "fp8": 8.05, "q4_1": 5,
    "nf4": 4.127,
}  # fmt: skip

#: Python, torch, transformers, peft and bitsandbytes in a process, on a CPU: 0.53 to 0.56 when nothing is computed, by
#: how much of their files is in the page cache, and what they allocate while they work
LIBRARIES = 1.0 * GIB
CONTEXT = 0.6 * GIB  #: what CUDA and its libraries take of a GPU before anything is computed
SCORED = 8  #: examples whose answers are scored together (`answer_nats`, `mean_loss`)


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the configuration decides how much is needed."""

    method: Literal["qlora", "lora"] = "qlora"
    rank: int = 16
    examples: int = 8  #: that a process trains on at once
    tokens: int = 512  #: of the longest of them
    answers: int = 48  #: tokens of a generated answer
    batch: int = 16  #: requests that are answered together
    variants: Sequence[Form] = ()  #: smaller forms that compress tries
    served: Form = "bf16"  #: the form that is served
    slots: int = 16  #: requests that the app answers together
    context: int = 2048  #: most tokens of one of them


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a machine, or what a stage takes of it, in GiB."""

    gpu: float  #: 0 where models run on the CPU
    ram: float


def room() -> Memory:
    """What this machine has: a GPU's memory, and the machine's or what its container may use of it."""
    gpu = torch.cuda.mem_get_info()[1] / GIB if torch.cuda.is_available() else 0.0
    return Memory(gpu, total_memory() / GIB)


def needs(stage: Stage, shape: Shape, settings: Settings, gpu: bool) -> Memory:
    """What a stage takes at its peak, with a tenth for what fragments.

    Args:
        stage: which one.
        shape: of the base model.
        settings: of the run.
        gpu: whether models run on a GPU; without one, all is the machine's own memory.
    """
    width = 2 if gpu else precision().itemsize  # bytes of a number that torch computes with
    held = _RULES[stage](shape, settings, width, gpu) * 1.1
    if gpu:
        streamed = LIBRARIES * 1.6 + 2 * max(SHARD, 2 * shape.tensor)  # weights pass through, file by file
        ram = _merging(shape) if stage == "merge" else streamed
        return Memory((held + CONTEXT) / GIB, ram / GIB)
    twice = 2 if stage == "compress" else 1  # a variant is measured by a process of its own
    return Memory(0.0, (held + twice * LIBRARIES) / GIB)


def weights(shape: Shape, form: Form, width: int = 2) -> float:
    """Bytes of a model's weights in memory and, about, on the disk.

    Args:
        shape: of the model.
        form: in which it is held.
        width: bytes of a number that is not quantised; on the disk 2, in memory those of what is computed in.
    """
    bits = 8 * width if form == "bf16" else BITS[form]
    return shape.linear * bits / 8 + (shape.parameters - shape.linear) * width


def adapter(shape: Shape, rank: int) -> float:
    """Bytes of an adapter on all linear layers, in float32."""
    return 4.0 * rank * shape.adapted


def activations(config: Any, tokens: int, answers: int, width: int = 2) -> int:
    """About how many bytes a packed batch keeps for its backward pass.

    Per layer and token a Llama keeps some 11 values per hidden unit (what enters norms, projections and adapters, the
    norms' in float32) and 4 per unit of the feed-forward layer; per answer token the logits once, and twice in float32.
    Attention is taken to be of a kind that keeps no square of scores. What
    autograd really kept for three small models was 0.8 to 1 times that.

    Args:
        config: of the base model.
        tokens: of the batch.
        answers: those of them with a loss.
        width: bytes of a number.
    """
    return int(tokens * _layer(config, width) * config.num_hidden_layers + answers * config.vocab_size * (8 + width))


def recomputed(config: Any, tokens: int, answers: int, width: int = 2) -> int:
    """The same where activations are computed twice: what enters each layer, and one layer's own."""
    entering = width * config.hidden_size * config.num_hidden_layers
    return int(tokens * (entering + _layer(config, width)) + answers * config.vocab_size * (8 + width))


def _layer(config: Any, width: int) -> int:
    """Bytes that one layer keeps of a token."""
    return int(width * (11 * config.hidden_size + 4 * _inner(config)))


def _inner(config: Any) -> int:
    """Width of the feed-forward layer."""
    return int(getattr(config, "intermediate_size", 0) or 4 * config.hidden_size)


def _answering(shape: Shape, settings: Settings, width: int) -> float:
    """Keys and values, one layer's activations, and the logits of the answers that are scored."""
    requests, tokens, answers = settings.batch, settings.tokens, settings.answers
    cache = requests * (tokens + answers) * shape.layers * shape.kv * 2 * width
    scoring = SCORED * answers * shape.vocabulary * (8 + width)
    return cache + requests * tokens * _layer(shape.config, width) + scoring


def _select(shape: Shape, settings: Settings, width: int, gpu: bool) -> float:
    return weights(shape, "nf4", width) + _answering(shape, settings, width)


def _train(shape: Shape, settings: Settings, width: int, gpu: bool) -> float:
    tokens = settings.examples * settings.tokens
    optimiser = 2 if gpu else 8  # bytes a parameter: two moments, in 8 bits or in float32
    learning = adapter(shape, settings.rank) * (4 + 4 + optimiser) / 4
    form: Form = "nf4" if settings.method == "qlora" else "bf16"
    loading = width * shape.tensor
    held = weights(shape, form, width)
    return held + max(learning + recomputed(shape.config, tokens, tokens // 2, width), loading)


def _merge(shape: Shape, settings: Settings, width: int, gpu: bool) -> float:
    """The merged model is judged on the validation examples; a CPU merges before that, with less."""
    tokens = SCORED * settings.tokens
    reading = tokens * _layer(shape.config, width) + tokens // 2 * shape.vocabulary * (8 + width)
    judged = weights(shape, "bf16", width) + reading
    return judged if gpu else max(judged, _merging(shape) - LIBRARIES)


def _merging(shape: Shape) -> float:
    """Of the machine's memory: a file of the base that is mapped, one of the result, and a layer in float32 thrice."""
    file = min(max(SHARD, 2 * shape.tensor), 2 * shape.parameters)
    return LIBRARIES + 2 * file + 3 * 4 * shape.largest


def _compress(shape: Shape, settings: Settings, width: int, gpu: bool) -> float:
    """All forms are compared with the full one, so that is in memory whatever is chosen."""
    found = _full(shape, gpu) + _answering(shape, settings, width)
    if "w8a16" in settings.variants:  # statistics of the layers that are rounded together, and one of them in float32
        found += max(GIB, 4 * _inner(shape.config) ** 2) + 3 * 4 * shape.largest
    if "recovered" in settings.variants:
        found = max(found, _train(shape, replace(settings, method="lora", rank=32), width, gpu))
    return found


def _evaluate(shape: Shape, settings: Settings, width: int, gpu: bool) -> float:
    """The untuned base is asked as it is, in 16 bits: never less than the form that is served."""
    return _full(shape, gpu) + _answering(shape, settings, width)


def _full(shape: Shape, gpu: bool) -> float:
    """The weights in 16 bits as they answer; on a CPU OpenVINO makes 32 bits of them while both are in memory."""
    return weights(shape, "bf16") * (1 if gpu else 3)


def _serve(shape: Shape, settings: Settings, width: int, gpu: bool) -> float:
    """On a CPU keys and values are kept in 32 bits, and so are the weights of the full form once they are loaded."""
    beside = adapter(shape, settings.rank) if settings.served == "nf4" else 0.0
    cache = settings.slots * settings.context * shape.layers * shape.kv * 2 * (2 if gpu else 4)
    full = settings.served in ("bf16", "f16") and not gpu
    held = _full(shape, gpu) if full else weights(shape, settings.served)
    return held + beside + cache + settings.context * _layer(shape.config, width)


_RULES = {
    "select": _select,
    "tune": _train,
    "train": _train,
    "merge": _merge,
    "compress": _compress,
    "evaluate": _evaluate,
    "deploy": _serve,
    "serve": _serve,
}
