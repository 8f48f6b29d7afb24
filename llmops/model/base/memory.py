"""How much memory each stage takes, from a model's real shape, and how much the machine has.

The decision is on what the machine has, not on what happens to be free: the same configuration is taken or refused
whatever else runs. `tests/model/base/test_memory.py` compares needs with measured peaks.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from llmops.frame.errors import TrainingError
from llmops.frame.machine import GIB, total_memory
from llmops.model.base.shape import Shape

log = logging.getLogger(__name__)

Form = Literal["bf16", "f16", "q8_0", "nf4", "fp8", "pruned", "recovered"]  #: in which a model is held
Stage = Literal["select", "tune", "train", "merge", "compress", "evaluate", "deploy", "serve"]
STAGES: tuple[Stage, ...] = ("select", "tune", "train", "merge", "compress", "evaluate", "deploy", "serve")

SHARD = GIB // 2  #: bytes of a file of the merged model; a larger tensor has a file of its own

#: Bits of a linear layer's weight; embedding, output layer and norms have at most 16. NF4 has double quantisation
#: (QLoRA, arXiv:2305.14314, section 3); q8_0 and fp8 have scales for a block beside the weights.
BITS: Mapping[Form, float] = {
    "bf16": 16, "f16": 16, "pruned": 16, "recovered": 16, "q8_0": 8.5, "fp8": 8.05, "nf4": 4.127,
}  # fmt: skip

#: Python, torch, transformers, peft and bitsandbytes in a process, on a CPU: 0.53 to 0.56 when nothing is computed, by
#: how much of their files is in the page cache, and what they allocate while they work
LIBRARIES = 1.0 * GIB
CONTEXT = 0.6 * GIB  #: what CUDA and its libraries take of a GPU before anything is computed
SCORED = 8  #: examples whose answers are scored together (`answer_nats`, `mean_loss`)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the configuration that decide how much memory is needed."""

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
    """Return the memory of the GPU, and of the machine or its container."""
    gpu = torch.cuda.mem_get_info()[1] / GIB if torch.cuda.is_available() else 0.0
    return Memory(gpu, total_memory() / GIB)


def needs(stage: Stage, shape: Shape, settings: Settings, gpu: bool) -> Memory:
    """Return the memory that a stage takes at its peak, with a tenth for fragments; without a GPU all of it is RAM."""
    held = _RULES[stage](shape, settings, gpu) * 1.1
    if gpu:
        streamed = LIBRARIES * 1.6 + 2 * max(SHARD, 2 * shape.tensor)  # weights pass through, file by file
        ram = _merging(shape) if stage == "merge" else streamed
        return Memory((held + CONTEXT) / GIB, ram / GIB)
    twice = 2 if stage == "compress" else 1  # a variant is measured by a process of its own
    return Memory(0.0, (held + twice * LIBRARIES) / GIB)


def weights(shape: Shape, form: Form) -> float:
    """Return the bytes of a model's weights in memory and, about, on the disk."""
    return shape.linear * BITS[form] / 8 + (shape.parameters - shape.linear) * 2


def adapter(shape: Shape, rank: int) -> float:
    """Return the bytes of an adapter on all linear layers, in float32."""
    return 4.0 * rank * shape.adapted


def activations(config: Any, tokens: int, answers: int) -> int:
    """Estimate the bytes that a packed batch of tokens, some of them of answers, keeps for its backward pass.

    Per layer and token a Llama keeps, in two bytes each, some 11 values per hidden unit (what enters norms, projections
    and adapters, in float32 within the norms) and 4 per unit of the feed-forward layer; per answer token the logits
    once in two bytes and twice in four. Attention is taken to be of a kind that keeps no square of scores. What
    autograd really kept for three small models was 0.8 to 1 times that.
    """
    return int(tokens * _layer(config) * config.num_hidden_layers + answers * config.vocab_size * 10)


def recomputed(config: Any, tokens: int, answers: int) -> int:
    """Estimate the same where activations are computed twice: the input of each layer, and one layer's own."""
    entering = 2 * config.hidden_size * config.num_hidden_layers
    return int(tokens * (entering + _layer(config)) + answers * config.vocab_size * 10)


def _layer(config: Any) -> int:
    inner = getattr(config, "intermediate_size", 0) or 4 * config.hidden_size  # width of the feed-forward layer
    return int(2 * (11 * config.hidden_size + 4 * inner))


def _answering(shape: Shape, requests: int, tokens: int, answers: int, gpu: bool) -> float:
    """Return the bytes of keys and values, one layer's activations, and the logits of scored answers."""
    cache = _cache(shape, requests * (tokens + answers), gpu)
    scoring = SCORED * answers * shape.vocabulary * 10
    return cache + requests * tokens * _layer(shape.config) + scoring


def _cache(shape: Shape, tokens: int, gpu: bool) -> float:
    """Return the bytes of keys and values: in bfloat16 on a GPU, in float32 on a CPU (see `gguf.worker.PRECISIONS`)."""
    return 2.0 * tokens * shape.layers * shape.kv * (2 if gpu else 4)


def _select(shape: Shape, settings: Settings, gpu: bool) -> float:
    return weights(shape, "nf4") + _answering(shape, settings.batch, settings.tokens, settings.answers, gpu)


def _train(shape: Shape, settings: Settings, gpu: bool) -> float:
    tokens = settings.examples * settings.tokens
    optimiser = 2 if gpu else 8  # bytes a parameter: two moments, in 8 bits or in float32
    learning = adapter(shape, settings.rank) * (4 + 4 + optimiser) / 4
    form: Form = "nf4" if settings.method == "qlora" else "bf16"
    loading = 2 * shape.tensor
    return weights(shape, form) + max(learning + recomputed(shape.config, tokens, tokens // 2), loading)


def _merge(shape: Shape, settings: Settings, gpu: bool) -> float:
    """Return the bytes of merging and of measuring the merged model in bfloat16, which is usually the larger."""
    tokens = SCORED * settings.tokens
    judged = weights(shape, "bf16") + tokens * _layer(shape.config) + tokens // 2 * shape.vocabulary * 10
    return judged if gpu else max(judged, _merging(shape) - LIBRARIES)


def _merging(shape: Shape) -> float:
    """Return the RAM of a merge: a mapped file of the base, one of the result, a layer in float32 thrice."""
    file = min(max(SHARD, 2 * shape.tensor), 2 * shape.parameters)
    return LIBRARIES + 2 * file + 3 * 4 * shape.largest


def _compress(shape: Shape, settings: Settings, gpu: bool) -> float:
    """Return the bytes of comparing the full form with the others. The full form is always loaded."""
    found = weights(shape, "bf16") + _answering(shape, settings.batch, settings.tokens, settings.answers, gpu)
    if "recovered" in settings.variants:
        found = max(found, _train(shape, replace(settings, method="lora", rank=32), gpu))
    return found


def _evaluate(shape: Shape, settings: Settings, gpu: bool) -> float:
    """Return the bytes of answering with the untuned base in bfloat16, which no other model of the stage exceeds."""
    return weights(shape, "bf16") + _answering(shape, settings.batch, settings.tokens, settings.answers, gpu)


def _serve(shape: Shape, settings: Settings, gpu: bool) -> float:
    beside = adapter(shape, settings.rank) if settings.served == "nf4" else 0.0
    cache = _cache(shape, settings.slots * settings.context, gpu)
    return weights(shape, settings.served) + beside + cache + settings.context * _layer(shape.config)


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


@dataclass(frozen=True, slots=True)
class Row:
    """The need of a stage for one kind of memory beside what is there, in GiB."""

    stage: Stage
    kind: str  #: "GPU" or "RAM"
    needed: float
    there: float

    @property
    def ok(self) -> bool:
        """Return True if the stage fits."""
        return self.needed <= self.there


def budget(stages: Sequence[Stage], shape: Shape, settings: Settings, there: Memory) -> list[Row]:
    """Return a row for each stage and kind of memory."""
    rows: list[Row] = []
    for stage in stages:
        need = needs(stage, shape, settings, gpu=there.gpu > 0)
        rows += [Row(stage, "GPU", need.gpu, there.gpu)] if there.gpu else []
        rows.append(Row(stage, "RAM", need.ram, there.ram))
    return rows


def need_memory(stages: Sequence[Stage], shape: Shape, settings: Settings, there: Memory) -> None:
    """Log the needs of the stages, and refuse to start if one does not fit.

    Raises:
        TrainingError: naming the memory that is short, and settings that would fit.
    """
    rows = budget(stages, shape, settings, there)
    for row in rows:
        log.info("memory: %s needs %.1f GiB of %.1f (%s)", row.stage, row.needed, row.there, row.kind)
    if short := [row for row in rows if not row.ok]:
        said = "; ".join(f"{r.stage} needs {r.needed:.1f} GiB ({r.kind}), {r.there:.1f} are there" for r in short)
        raise TrainingError(f"Not enough memory: {said}. {advice(short[0], shape, settings, there)}")


def advice(short: Row, shape: Shape, settings: Settings, there: Memory) -> str:
    """Advise how a stage would fit that does not: NF4, fewer examples at once, or a smaller model."""

    def fits(changed: Settings) -> bool:
        return all(row.ok for row in budget([short.stage], shape, changed, there))

    if short.stage in ("tune", "train"):
        if settings.method == "lora" and fits(replace(settings, method="qlora")):
            return "It fits with the base in NF4: train.method: qlora."
        for examples in range(settings.examples // 2, 0, -1):
            if settings.examples % examples == 0 and fits(replace(settings, examples=examples)):
                return f"It fits with fewer examples at once: train.micro_batch: {examples}."
    fewer = {"serving.max_batch": "slots", "serving.max_context": "context", "the stage's batch": "batch"}
    for name, field in fewer.items() if short.stage not in ("tune", "train", "merge") else ():
        value = getattr(settings, field) // 4
        if value and fits(replace(settings, **{field: value})):
            return f"It fits with a smaller {name}, such as {value}."
    held = 0.55 if short.stage in ("tune", "train") and settings.method == "qlora" else 2.0
    billions = max(0.1, (short.there - 2) * 2**30 / held / 1e9 / 1.2)
    return f"Take a smaller model, of about {billions:.1f} billion parameters (select.model), or a larger machine."
