"""Estimates of the memory that each stage takes, from a model's real shape, and the memory of the machine.

The total memory decides, not the free memory. So a configuration is accepted or refused no matter what else runs.
`tests/model/base/test_memory.py` compares the estimates with measured peaks.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from llmops.frame.errors import TrainingError
from llmops.frame.machine import GIB, get_total_memory
from llmops.model.base.shape import ModelShape

log = logging.getLogger(__name__)

#: number format or size of a model
ModelForm = Literal["bf16", "f16", "q8_0", "nf4", "fp8", "int8"]
StageName = Literal["select", "tune", "train", "merge", "compress", "evaluate", "deploy", "serve"]
STAGE_NAMES: tuple[StageName, ...] = ("select", "tune", "train", "merge", "compress", "evaluate", "deploy", "serve")

SHARD_BYTES = GIB // 2  #: bytes of a file of the merged model; a larger tensor has a file of its own

#: Bits of a linear layer's weight; embedding, output layer and norms have at most 16. NF4 has double quantisation
#: (QLoRA, arXiv:2305.14314, section 3); q8_0 and fp8 have scales for a block beside the weights.
BITS_PER_WEIGHT: Mapping[ModelForm, float] = {
    "bf16": 16, "f16": 16, "q8_0": 8.5, "fp8": 8.05, "nf4": 4.127, "int8": 8.1,
}  # fmt: skip

#: Python, torch, transformers, peft and bitsandbytes in a process, on a CPU: 0.53 to 0.56 when nothing is computed, by
#: how much of their files is in the page cache, and what they allocate while they work
LIBRARY_BYTES = 1.0 * GIB
CUDA_CONTEXT_BYTES = 0.6 * GIB  #: memory of a GPU that CUDA and its libraries take before anything is computed
SCORING_BATCH = 8  #: examples whose answers are scored together (`compute_answer_nats`)


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Settings of the configuration that decide how much memory is needed."""

    method: Literal["qlora", "lora"] = "qlora"
    rank: int = 16
    examples: int = 8  #: that a process trains on at once
    tokens: int = 512  #: of the longest of them
    answers: int = 48  #: tokens of a generated answer
    batch: int = 16  #: requests that are answered together
    variants: Sequence[ModelForm] = ()  #: smaller forms that compress tries
    served: ModelForm = "bf16"  #: the form that is served
    slots: int = 16  #: requests that the app answers together
    context: int = 2048  #: most tokens of one of them


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that a machine has, or that a stage takes, in GiB."""

    gpu: float  #: 0 where models run on the CPU
    ram: float


def read_machine_memory() -> Memory:
    """Return the memory of the GPU, and of the machine or its container."""
    gpu = torch.cuda.mem_get_info()[1] / GIB if torch.cuda.is_available() else 0.0
    return Memory(gpu, get_total_memory() / GIB)


def estimate_need(stage: StageName, shape: ModelShape, settings: MemorySettings, gpu: bool) -> Memory:
    """Return the memory that a stage takes at its peak, with a tenth for fragments; without a GPU all of it is RAM."""
    peak = _ESTIMATES[stage](shape, settings, gpu) * 1.1
    if gpu:
        # Weights pass through the RAM, file by file.
        streamed = LIBRARY_BYTES * 1.6 + 2 * max(SHARD_BYTES, 2 * shape.largest_tensor)
        ram = _estimate_merge_ram(shape) if stage == "merge" else streamed
        return Memory((peak + CUDA_CONTEXT_BYTES) / GIB, ram / GIB)
    processes = 2 if stage == "compress" else 1  # a variant is measured by a process of its own
    return Memory(0.0, (peak + processes * LIBRARY_BYTES) / GIB)


def count_weight_bytes(shape: ModelShape, form: ModelForm) -> float:
    """Return the bytes of a model's weights in memory and, about, on the disk."""
    return shape.linear * BITS_PER_WEIGHT[form] / 8 + (shape.parameters - shape.linear) * 2


def count_adapter_bytes(shape: ModelShape, rank: int) -> float:
    """Return the bytes of an adapter on all linear layers, in float32."""
    return 4.0 * rank * shape.adapted


def estimate_activations(config: Any, tokens: int, answers: int) -> int:
    """Estimate the bytes that a packed batch of tokens, some of them of answers, keeps for its backward pass.

    Per layer and token a Llama keeps, in two bytes each, some 11 values per hidden unit (what enters norms, projections
    and adapters, in float32 within the norms) and 4 per unit of the feed-forward layer; per answer token the logits
    once in two bytes and twice in four. Attention is assumed to keep no square of scores.
    Autograd kept 0.8 to 1 times the estimate for three small models.
    """
    return int(
        tokens * _estimate_layer_activations(config) * config.num_hidden_layers + answers * config.vocab_size * 10
    )


def estimate_recomputed_activations(config: Any, tokens: int, answers: int) -> int:
    """Estimate them if activations are computed twice: the input of each layer, and all of one layer."""
    layer_inputs = 2 * config.hidden_size * config.num_hidden_layers
    return int(tokens * (layer_inputs + _estimate_layer_activations(config)) + answers * config.vocab_size * 10)


def _estimate_layer_activations(config: Any) -> int:
    inner = getattr(config, "intermediate_size", 0) or 4 * config.hidden_size  # width of the feed-forward layer
    return int(2 * (11 * config.hidden_size + 4 * inner))


def _estimate_answering(shape: ModelShape, requests: int, tokens: int, answers: int, gpu: bool) -> float:
    """Return the bytes of keys and values, one layer's activations, and the logits of scored answers."""
    cache = _count_cache_bytes(shape, requests * (tokens + answers), gpu)
    scoring = SCORING_BATCH * answers * shape.vocabulary * 10
    return cache + requests * tokens * _estimate_layer_activations(shape.config) + scoring


def _count_cache_bytes(shape: ModelShape, tokens: int, gpu: bool) -> float:
    """Return the bytes of keys and values: in bfloat16 on a GPU, in float32 on a CPU (see `gguf.worker.PRECISIONS`)."""
    return 2.0 * tokens * shape.layers * shape.kv * (2 if gpu else 4)


def _estimate_select(shape: ModelShape, settings: MemorySettings, gpu: bool) -> float:
    return count_weight_bytes(shape, "nf4") + _estimate_answering(
        shape, settings.batch, settings.tokens, settings.answers, gpu
    )


def _estimate_train(shape: ModelShape, settings: MemorySettings, gpu: bool) -> float:
    tokens = settings.examples * settings.tokens
    optimiser = 2 if gpu else 8  # bytes a parameter: two moments, in 8 bits or in float32
    training = count_adapter_bytes(shape, settings.rank) * (4 + 4 + optimiser) / 4
    form: ModelForm = "nf4" if settings.method == "qlora" else "bf16"
    loading = 2 * shape.largest_tensor
    training += estimate_recomputed_activations(shape.config, tokens, tokens // 2)
    return count_weight_bytes(shape, form) + max(training, loading)


def _estimate_merge(shape: ModelShape, settings: MemorySettings, gpu: bool) -> float:
    """Return the bytes of merging and of measuring the merged model in bfloat16, which is usually the larger."""
    tokens = SCORING_BATCH * settings.tokens
    computed = tokens * _estimate_layer_activations(shape.config) + tokens // 2 * shape.vocabulary * 10
    measuring = count_weight_bytes(shape, "bf16") + computed
    return measuring if gpu else max(measuring, _estimate_merge_ram(shape) - LIBRARY_BYTES)


def _estimate_merge_ram(shape: ModelShape) -> float:
    """Return the RAM of a merge: a mapped file of the base, one of the result, a layer in float32 thrice."""
    file = min(max(SHARD_BYTES, 2 * shape.largest_tensor), 2 * shape.parameters)
    return LIBRARY_BYTES + 2 * file + 3 * 4 * shape.largest_layer


def _estimate_compress(shape: ModelShape, settings: MemorySettings, gpu: bool) -> float:
    """Return the bytes of comparing the full form with the others. The full form is always loaded."""
    return count_weight_bytes(shape, "bf16") + _estimate_answering(
        shape, settings.batch, settings.tokens, settings.answers, gpu
    )


def _estimate_evaluate(shape: ModelShape, settings: MemorySettings, gpu: bool) -> float:
    """Return the bytes of answering with the untuned base in bfloat16, which no other model of the stage exceeds."""
    return count_weight_bytes(shape, "bf16") + _estimate_answering(
        shape, settings.batch, settings.tokens, settings.answers, gpu
    )


def _estimate_serve(shape: ModelShape, settings: MemorySettings, gpu: bool) -> float:
    adapter = count_adapter_bytes(shape, settings.rank) if settings.served == "nf4" else 0.0
    cache = _count_cache_bytes(shape, settings.slots * settings.context, gpu)
    computed = settings.context * _estimate_layer_activations(shape.config)
    return count_weight_bytes(shape, settings.served) + adapter + cache + computed


_ESTIMATES = {
    "select": _estimate_select,
    "tune": _estimate_train,
    "train": _estimate_train,
    "merge": _estimate_merge,
    "compress": _estimate_compress,
    "evaluate": _estimate_evaluate,
    "deploy": _estimate_serve,
    "serve": _estimate_serve,
}


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The memory of one kind that a stage needs, and that the machine has, in GiB."""

    stage: StageName
    kind: str  #: "GPU" or "RAM"
    needed: float
    there: float

    @property
    def ok(self) -> bool:
        """Return True if the stage fits."""
        return self.needed <= self.there


def list_needs(
    stages: Sequence[StageName], shape: ModelShape, settings: MemorySettings, available: Memory
) -> list[MemoryNeed]:
    """Return a row for each stage and kind of memory."""
    rows: list[MemoryNeed] = []
    for stage in stages:
        need = estimate_need(stage, shape, settings, gpu=available.gpu > 0)
        rows += [MemoryNeed(stage, "GPU", need.gpu, available.gpu)] if available.gpu else []
        rows.append(MemoryNeed(stage, "RAM", need.ram, available.ram))
    return rows


def require_memory(stages: Sequence[StageName], shape: ModelShape, settings: MemorySettings, available: Memory) -> None:
    """Log the needs of the stages, and refuse to start if one does not fit.

    Raises:
        TrainingError: with the missing memory, and settings that would fit.
    """
    rows = list_needs(stages, shape, settings, available)
    for row in rows:
        log.info("memory: %s needs %.1f GiB of %.1f (%s)", row.stage, row.needed, row.there, row.kind)
    if short := [row for row in rows if not row.ok]:
        shortages = "; ".join(f"{r.stage} needs {r.needed:.1f} GiB ({r.kind}), {r.there:.1f} are there" for r in short)
        raise TrainingError(f"Not enough memory: {shortages}. {suggest_remedy(short[0], shape, settings, available)}")


def suggest_remedy(short: MemoryNeed, shape: ModelShape, settings: MemorySettings, available: Memory) -> str:
    """Return a setting with which the stage would fit: NF4, fewer examples at once, or a smaller model."""

    def fits(changed: MemorySettings) -> bool:
        return all(row.ok for row in list_needs([short.stage], shape, changed, available))

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
    bytes_per_parameter = 0.55 if short.stage in ("tune", "train") and settings.method == "qlora" else 2.0
    billions = max(0.1, (short.there - 2) * 2**30 / bytes_per_parameter / 1e9 / 1.2)
    return f"Take a smaller model, of about {billions:.1f} billion parameters (select.model), or a larger machine."
