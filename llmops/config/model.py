"""The sections about the model: select, tune, train, compress, evaluate.

`Unhashed` marks a field that is not part of an artifact's fingerprint: a change makes no earlier result stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llmops.config.section import Section, Unhashed
from llmops.config.space import Expression, HyperparameterName, check_expression

# Metrics of every answer, by task, on which the gate can decide. Their functions are in
# `llmops/model/scoring/metrics.py`, their columns in `llmops/model/scoring/tasks.py`; a test compares the lists.
TaskName = Literal["qa", "generation", "classification", "multilabel"]

_TEXT_METRICS = ("token_f1", "rouge_1", "rouge_2", "rouge_l", "sentence_bleu", "reading_ease")
_ITEM_METRICS: Mapping[TaskName, tuple[str, ...]] = {
    "qa": ("token_f1", "exact_match", *_TEXT_METRICS[1:]),
    "generation": _TEXT_METRICS,
    "classification": ("accuracy",),
    "multilabel": ("label_f1", "exact_match", "hamming_loss"),
}

PRIMARY_METRICS = {task: names[0] for task, names in _ITEM_METRICS.items()}  #: by default the gate decides on these
LOWER_IS_BETTER = frozenset(
    {"perplexity", "hamming_loss", "calibration_error"}
)  #: for all other metrics more is better
DESCRIPTIVE = frozenset({"reading_ease", "confidence", "answered"})  #: neither: these only describe an answer

DEFAULT_SPACE: dict[HyperparameterName, Expression] = {
    "learning_rate": ("loguniform", 1e-5, 1e-3),
    "rank": ("choice", 8, 16),
    "batch": ("choice", 4, 8),
}
SmallForm = Literal["q8_0", "nf4", "fp8", "int8"]
TPE_STARTUP = 5  #: random trials before TPE; HyperOpt's default 20 would make a search of 20 trials random


def list_item_metrics(task: TaskName, k: int) -> tuple[str, ...]:
    """Return the names of the metrics of each answer; `k` is that of precision@k."""
    return (*_ITEM_METRICS[task], *((f"precision_at_{k}",) if task == "multilabel" else ()))


class Select(Section):
    """Choose the base model."""

    model: str = Field("", description="Model id of the catalogue, or a local folder; empty: chosen by the filter.")
    encoders: tuple[str, ...] = Field(
        (),
        description="For `evaluate.task: classification`: encoders such as BERT to compare, by folder or Hub id, or "
        "`all-MiniLM-L6-v2`, which is here. Each gets a head for the labels; the smallest is taken, unless a larger "
        "one is better beyond chance on validation examples. Empty: a language model answers with the label.",
    )
    revision: str = Field("", description="Revision of a Hub model; empty takes the catalogue's.")
    licences: tuple[str, ...] = Field(("apache-2.0", "mit"), description="Allowed licences, as SPDX ids in lower case.")
    languages: tuple[str, ...] = Field((), description="Languages it must know, as ISO 639-1 codes; empty: any.")
    min_context: int = Field(0, ge=0, description="Least length of its context, in tokens.")
    max_memory_gib: float = Field(
        0.0, ge=0, description="GPU memory (without a GPU: main memory) in GiB that a stage may use; 0: all."
    )
    max_serving_gib: float = Field(0.0, ge=0, description="The same for serving; 0: as much as for a stage.")
    offline: bool = Field(True, description="Only models that need no download.")
    score_items: int = Field(
        16, ge=0, description="Validation examples on which untuned candidates with local weights are scored; 0: none."
    )


class Tune(Section):
    """Search hyperparameters from a good starting point. Values fixed in `train` are not searched."""

    search: Literal["tpe", "random", "grid"] = Field(
        "random",
        description="`random`: HyperOpt's random search; `tpe`: model-based from the sixth trial on, for ten trials "
        "or more; `grid`: all combinations, up to `trials`.",
    )
    trials: int = Field(
        4,
        ge=0,
        description="Most points tried; 0 or 1: take the starting point untried. Whole trials (`steps` is 0) end after "
        "three in a row that were no better than one before, except in a grid.",
    )
    steps: int = Field(8, ge=0, description="Optimiser steps of a full trial; 0: full epochs, like `train`.")
    halving: int = Field(
        4, ge=1, description="Successive halving: the best 1/halving of the trials continue; 1: all trials run in full."
    )
    rung: int = Field(2, ge=1, description="Fewest optimiser steps before trials are compared.")
    space: dict[HyperparameterName, Expression] = Field(
        DEFAULT_SPACE,
        description="Search space: `learning_rate`, `rank`, `batch`, `epochs`, `alpha`, `dropout`, `warmup`, each "
        "with one of HyperOpt's expressions: `[choice, 8, 16]`, `[uniform, 0, 0.1]`, `[quniform, 1, 5, 1]`, "
        "`[uniformint, 1, 5]`, `[loguniform, 1e-5, 1e-3]`, `[qloguniform, 8, 64, 8]`; all bounds are values, not "
        "logarithms.",
    )
    validation_items: int = Field(
        24, ge=2, description="Validation examples per trial. A lead smaller than their noise is not taken."
    )
    spark: Annotated[str, Unhashed()] = Field(
        "",
        description="Spark master on which HyperOpt's SparkTrials runs whole trials; empty: here, one after another.",
    )
    parallel: int = Field(1, ge=1, description="With `spark`: concurrent trials, each without knowing the others.")
    seed: int = Field(0, description="Seed of the search and of its trials.")

    @field_validator("space")
    @classmethod
    def _check_space(cls, value: dict[HyperparameterName, Expression]) -> dict[HyperparameterName, Expression]:
        for name, expression in value.items():
            check_expression(name, expression)
        return value

    @model_validator(mode="after")
    def _check_search(self) -> Tune:
        if self.search == "tpe" and 1 < self.trials <= TPE_STARTUP:
            raise ValueError(
                f"TPE's first {TPE_STARTUP} trials are random and tune.trials is {self.trials}, so it would never "
                "model anything; raise it to ten or more, or set tune.search: random in the configuration file (it "
                "cannot be set as a run parameter)"
            )
        if "epochs" in self.space and self.steps:
            raise ValueError(
                "a trial with a fixed number of steps cannot compare epochs: to search them, set tune.steps to 0, "
                "which trains every trial whole"
            )
        if not self.steps and self.halving > 1:
            raise ValueError(
                "trials that train their own epochs (tune.steps: 0) are of different lengths and cannot be compared on "
                "the way; set tune.halving to 1"
            )
        if self.spark and self.halving > 1:
            raise ValueError(
                "trials on Spark run whole: SparkTrials can neither compare them on the way nor give a worker another "
                "one's checkpoint; set tune.halving to 1"
            )
        if self.parallel > 1 and not self.spark:
            raise ValueError("trials run at once only on Spark; name its master in tune.spark")
        return self


class Train(Section):
    """Fine-tune with QLoRA or LoRA, or all weights of an encoder."""

    method: Literal["qlora", "lora", "full"] = Field(
        "qlora",
        description="`qlora`: an adapter on the base in NF4; `lora`: on the base in bfloat16; `full`: all weights, of "
        "an encoder only. The adapter of an encoder is always on the base in float32.",
    )
    epochs: float = Field(
        0.0, ge=0, description="Passes over the training examples; 0 takes what `tune` found, 3 if it searched none."
    )
    learning_rate: float = Field(0.0, ge=0, description="Peak learning rate; 0 takes what `tune` found.")
    rank: int = Field(0, ge=0, description="LoRA rank; 0 takes what `tune` found.")
    batch: int = Field(0, ge=0, description="Examples per optimiser step; 0 takes what `tune` found.")
    alpha: int = Field(
        0, ge=0, description="LoRA alpha; 0 takes what `tune` found, twice the rank if it searched none."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="LoRA dropout; empty takes what `tune` found, 0 if it searched none."
    )
    rslora: bool = Field(False, description="Scale the adapter by alpha over the root of the rank: for high ranks.")
    dora: bool = Field(False, description="Learn magnitude and direction apart (DoRA): better at low ranks, slower.")
    target_modules: tuple[str, ...] = Field(
        (), description="Layers that get an adapter, such as `qkv_proj`; empty: all linear layers."
    )
    warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the steps with rising learning rate; empty takes what `tune` found, 0.05 if it searched "
        "none.",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    validate_steps: int = Field(0, ge=0, description="Steps between checks of the validation loss; 0: only at the end.")
    patience: int = Field(
        0, ge=0, description="Stop after so many checks without a lower validation loss, keep the best; 0: never."
    )
    checkpoint_steps: Annotated[int, Unhashed()] = Field(10, ge=1, description="Steps between checkpoints.")
    micro_batch: Annotated[int, Unhashed()] = Field(
        0, ge=0, description="Examples that a process computes at once; 0: its share of the batch."
    )
    processes: Annotated[int, Unhashed()] = Field(
        0, ge=0, description="Processes that share every batch; 0: one per GPU, or one."
    )
    report_to: Annotated[tuple[str, ...], Unhashed()] = Field(
        (), description="Experiment trackers by transformers' names: `tensorboard`, `mlflow`; install them first."
    )
    seed: int = Field(0, description="Seed of adapter initialisation and data order.")

    @model_validator(mode="after")
    def _check_patience(self) -> Train:
        if self.patience and not self.validate_steps:
            raise ValueError("patience counts looks at the validation loss; set validate_steps too")
        return self


class Compress(Section):
    """Make smaller forms of the trained model, measure them on validation items, and choose the one to serve."""

    full: Literal["auto", "f16", "bf16"] = Field(
        "auto",
        description="Full form of the model, with which smaller ones are compared: `f16`, a GGUF file for the engine "
        "`openvino`; `bf16`, for `transformers` and `vllm`. `auto`: `bf16` with a GPU or for an architecture whose "
        "GGUF files OpenVINO does not read, else `f16`.",
    )
    system_prompt: str = Field(
        "",
        max_length=2000,
        description="Text that the version puts before every conversation, in evaluation and in serving. A caller's "
        "own system message takes its place. It belongs to the version: another text makes another one, without new "
        "training.",
    )
    variants: tuple[SmallForm, ...] | None = Field(
        None,
        description="Smaller forms to try. For the engine `openvino`: `q8_0`, a GGUF file with 8-bit weights. For "
        "GPUs: `nf4`, the base in NF4 and the adapter beside it; `fp8`, weights in 8-bit floats, with the package "
        "kernels. For encoders: `int8`, weights in 8 bits for OpenVINO. Unset: `q8_0` beside `f16`, `int8` beside "
        "an encoder, `nf4` with a GPU. An empty list: the full form is served.",
    )
    max_refused: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Most of the validation texts, as a share, to which a classifier gives no label because it is not "
        "sure enough. Empty: 0.02; with texts of `annotate.out_of_scope` 0.1, or less if both kinds are told apart "
        "better by less. 0: every text gets a label.",
    )
    precision: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Least share of right labels among those that a classifier gives, on validation examples. More "
        "texts than `max_refused` get no label if it takes that; 0: no such bound.",
    )
    within: float = Field(
        0.01,
        ge=0,
        description="A smaller form qualifies if the upper bound of its increase of the loss per answer token is "
        "at most this many nats; 0.01 is one per cent of perplexity.",
    )
    prefer: Literal["smallest", "fastest"] = Field(
        "smallest", description="Choice among the qualified: smallest on disk, or most tokens/s at `batch`."
    )
    items: int = Field(64, ge=1, description="Most validation items measured.")
    batch: int = Field(16, ge=1, description="Concurrent requests of the second speed test; the first has one.")
    max_new_tokens: int = Field(48, ge=1, description="Longest answer to a validation item, in tokens.")
    bootstrap: int = Field(2000, ge=100, description="Bootstrap resamples of every interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap.")

    @field_validator("system_prompt")
    @classmethod
    def _strip_system_prompt(cls, value: str) -> str:
        return value.strip()  # chat templates do so, too

    def list_tried_forms(self, full: str, gpu: bool) -> tuple[SmallForm, ...]:
        """Return the smaller forms to try beside a full one, with a GPU or without."""
        if self.variants is not None:
            return self.variants
        small: dict[str, SmallForm] = {"f16": "q8_0", "f32": "int8"}
        return (small[full],) if full in small else ("nf4",) if gpu else ()

    @field_validator("variants")
    @classmethod
    def _check_variants(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if len(set(value)) < len(value):
            raise ValueError("name every variant once")
        if "fp8" in value and find_spec("kernels") is None:
            raise ValueError(
                "fp8 needs the package kernels, which is not installed. It is in none of this project's requirement "
                "lists, because bitsandbytes asks the Hub at every import once it is installed. Run `pip install "
                "kernels` only on the GPU machines that make and serve the model; it downloads "
                "kernels-community/finegrained-fp8 from the Hub. Or leave fp8 out of compress.variants"
            )
        return value


class Evaluate(Section):
    """Answer the frozen test with base, champion and candidate, and score the answers."""

    task: TaskName = Field(
        "qa",
        description="Metrics by task. `qa`: token F1, exact match and all of `generation`; `generation`: ROUGE, BLEU "
        "and reading ease; `classification` (the answer is a label): accuracy, macro F1; `multilabel` (labels "
        "separated by commas): F1 of labels, Hamming loss, precision@k. Perplexity always.",
    )
    max_new_tokens: int = Field(96, ge=1, description="Longest answer, in tokens.")
    batch: int = Field(16, ge=1, description="Items that are answered together.")
    k: int = Field(3, ge=1, description="For `multilabel`: k of precision@k.")
    bootstrap: int = Field(2000, ge=100, description="Bootstrap resamples of every interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap.")
    slice_items: int = Field(5, ge=1, description="Sources, topics and lengths with fewer items get no figures.")
    worst: int = Field(15, ge=0, description="Answers shown in each list of the report.")
