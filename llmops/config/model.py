"""The sections that make a model: select, tune, train, compress, evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llmops.config.section import Section, Unhashed
from llmops.config.space import Expression, HyperparameterName, check_expression

# The metrics that each task has of every answer: what the gate can decide on, and which way is better. The functions
# behind the names are in `llmops/model/scoring/metrics.py`, the columns they make in `llmops/model/scoring/tasks.py`;
# a test compares those with this list.
TaskName = Literal["qa", "generation", "classification", "multilabel"]

_TEXT = ("token_f1", "rouge_1", "rouge_2", "rouge_l", "sentence_bleu", "reading_ease")
_ITEM: Mapping[TaskName, tuple[str, ...]] = {
    "qa": ("token_f1", "exact_match", *_TEXT[1:]),
    "generation": _TEXT,
    "classification": ("accuracy",),
    "multilabel": ("label_f1", "exact_match", "hamming_loss"),
}

LOWER_IS_BETTER = frozenset({"perplexity", "hamming_loss"})  #: of all other metrics more is better
DESCRIPTIVE = frozenset({"reading_ease"})  #: but of these, which only describe an answer

SPACE: dict[HyperparameterName, Expression] = {
    "learning_rate": ("loguniform", 1e-5, 1e-3),
    "rank": ("choice", 8, 16),
    "batch": ("choice", 4, 8),
}
SmallForm = Literal["q8_0", "nf4", "fp8", "pruned", "recovered"]
TPE_STARTUP = 5  #: trials before TPE begins to model; HyperOpt's own 20 would make a search of 20 a random one


def item_metrics(task: TaskName, k: int) -> tuple[str, ...]:
    """Names of what is measured of each answer; `k` is that of precision@k."""
    return (*_ITEM[task], *((f"precision_at_{k}",) if task == "multilabel" else ()))


class Select(Section):
    """Choose the base model."""

    model: str = Field("", description="A model id of the catalogue, or a local folder; empty lets the filter choose.")
    revision: str = Field("", description="Revision of a Hub model; empty takes the catalogue's.")
    licences: tuple[str, ...] = Field(
        ("apache-2.0", "mit"), description="Licences that are allowed, as SPDX ids in lower case."
    )
    languages: tuple[str, ...] = Field((), description="Languages it must know, as ISO 639-1 codes; empty: any.")
    min_context: int = Field(0, ge=0, description="Tokens that its context must hold.")
    max_memory_gib: float = Field(
        0.0,
        ge=0,
        description="Memory, in GiB, that a stage may take of the GPU, or without one of the machine; 0: all there is.",
    )
    max_serving_gib: float = Field(0.0, ge=0, description="The same for serving; 0: as much as for a stage.")
    offline: bool = Field(True, description="Only models that need no download.")
    score_items: int = Field(
        16, ge=0, description="Validation examples that models whose weights are here are scored on, untuned; 0: none."
    )


class Tune(Section):
    """Search hyperparameters, from a starting point that is usually good; what `train` fixes is not searched."""

    search: Literal["tpe", "random", "grid"] = Field(
        "random",
        description="`random`: HyperOpt's random search; `tpe`: its model of what did well, from the sixth trial "
        "on, so for ten or more; `grid`: all combinations, as many as fit.",
    )
    trials: int = Field(4, ge=0, description="Most points that are tried; 0 or 1 takes the starting point untried.")
    steps: int = Field(
        8, ge=0, description="Optimiser steps of a whole trial; 0: each trains its epochs, as `train` would."
    )
    halving: int = Field(
        4,
        ge=1,
        description="Successive halving: the best 1/halving of the trials are trained on; 1 trains all of them whole.",
    )
    rung: int = Field(2, ge=1, description="Fewest optimiser steps after which trials are compared.")
    space: dict[HyperparameterName, Expression] = Field(
        SPACE,
        description="Search space: `learning_rate`, `rank`, `batch`, `epochs`, `alpha`, `dropout`, `warmup`, each "
        "with one of HyperOpt's expressions: `[choice, 8, 16]`, `[uniform, 0, 0.1]`, `[quniform, 1, 5, 1]`, "
        "`[uniformint, 1, 5]`, `[loguniform, 1e-5, 1e-3]`, `[qloguniform, 8, 64, 8]`; bounds are values, also of "
        "logarithmic ones.",
    )
    validation_items: int = Field(
        24,
        ge=2,
        description="Validation examples a trial is judged on. A lead below their noise is not taken.",
    )
    spark: Annotated[str, Unhashed()] = Field(
        "",
        description="Spark master on which HyperOpt's SparkTrials runs whole trials; empty: here, one after another.",
    )
    parallel: int = Field(1, ge=1, description="With `spark`: trials at once, each without knowing of the others.")
    seed: int = Field(0, description="Seed of the search and of its trials.")

    @field_validator("space")
    @classmethod
    def _expressions(cls, value: dict[HyperparameterName, Expression]) -> dict[HyperparameterName, Expression]:
        for name, expression in value.items():
            check_expression(name, expression)
        return value

    @model_validator(mode="after")
    def _sound(self) -> Tune:
        if self.search == "tpe" and 1 < self.trials <= TPE_STARTUP:
            raise ValueError(
                f"TPE's first {TPE_STARTUP} trials are random and tune.trials is {self.trials}, so it would never "
                "model anything; raise it to ten or more, or set tune.search: random in the configuration, which no "
                "parameter of a run can"
            )
        if "epochs" in self.space and self.steps:
            raise ValueError(
                "a trial of so many steps says nothing about epochs: to search them, set tune.steps to 0, which trains "
                "every trial whole"
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
    """Fine-tune with QLoRA."""

    method: Literal["qlora", "lora"] = Field("qlora", description="`qlora`: the base in NF4; `lora`: in bfloat16.")
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
    group_by_length: bool = Field(
        False, description="Put examples of similar length into a batch: evens out the work of several GPUs."
    )
    validate_steps: int = Field(
        0, ge=0, description="Steps between looks at the validation loss; 0: only when training has ended."
    )
    patience: int = Field(
        0, ge=0, description="Stop after so many looks without a lower validation loss, and keep the best; 0: never."
    )
    checkpoint_steps: Annotated[int, Unhashed()] = Field(10, ge=1, description="Steps between checkpoints.")
    micro_batch: Annotated[int, Unhashed()] = Field(
        0, ge=0, description="Examples that a process computes at once; 0: its whole share of the batch."
    )
    processes: Annotated[int, Unhashed()] = Field(
        0, ge=0, description="Processes that share every batch; 0: one per GPU, or one."
    )
    report_to: Annotated[tuple[str, ...], Unhashed()] = Field(
        (), description="Experiment trackers as transformers names them: `tensorboard`, `mlflow`; install them first."
    )
    seed: int = Field(0, description="Seed of adapter initialisation and data order.")

    @model_validator(mode="after")
    def _looks(self) -> Train:
        if self.patience and not self.validate_steps:
            raise ValueError("patience counts looks at the validation loss; set validate_steps too")
        return self


class Compress(Section):
    """Make smaller forms of the trained model, measure them on validation items, and choose the one that is served."""

    full: Literal["auto", "f16", "bf16"] = Field(
        "auto",
        description="Form of the whole model, with which smaller ones are compared: `f16`, a GGUF file for the engine "
        "`openvino`; `bf16`, for `transformers` and `vllm`. `auto`: `bf16` with a GPU or for an architecture that "
        "OpenVINO reads no GGUF file of, else `f16`.",
    )
    variants: tuple[SmallForm, ...] | None = Field(
        None,
        description="Smaller forms to try. For the engine `openvino` `q8_0`, a GGUF file with weights in 8 bits. For "
        "GPUs `nf4`, the base in NF4 and the adapter beside it; `fp8`, weights in 8-bit floats, with the package "
        "kernels. For both `pruned`, without the least used neurons of every MLP; `recovered`, pruned and trained "
        "again. Unset: `q8_0` beside `f16`, `nf4` with a GPU. An empty list: the whole model is served.",
    )
    within: float = Field(
        0.01,
        ge=0,
        description="A smaller form may be chosen if the upper bound of what it adds to the loss per answer token is "
        "at most this many nats; 0.01 is one per cent of perplexity.",
    )
    prefer: Literal["smallest", "fastest"] = Field(
        "smallest", description="Which of those within: the smallest on disk, or the one with most tokens/s at `batch`."
    )
    items: int = Field(64, ge=1, description="Validation items they are measured on, at most.")
    batch: int = Field(16, ge=1, description="Requests at a time of the second speed; the first is of one request.")
    max_new_tokens: int = Field(48, ge=1, description="Longest answer to a validation item, in tokens.")
    prune: float = Field(0.2, gt=0, lt=1, description="Share of the neurons of every MLP that `pruned` leaves out.")
    recovery_epochs: float = Field(2.0, gt=0, description="Passes over the training examples that `recovered` trains.")
    recovery_learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of that training.")
    bootstrap: int = Field(2000, ge=100, description="Bootstrap resamples of every interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap and of the recovery training.")

    def tried(self, full: str, gpu: bool) -> tuple[SmallForm, ...]:
        """Return the smaller forms to try beside a full one, with a GPU or without."""
        if self.variants is not None:
            return self.variants
        return ("q8_0",) if full == "f16" else ("nf4",) if gpu else ()

    @field_validator("variants")
    @classmethod
    def _once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if len(set(value)) < len(value):
            raise ValueError("name every variant once")
        if "fp8" in value and find_spec("kernels") is None:
            raise ValueError(
                "fp8 needs the package kernels, which is not installed and which no list of this project has, since "
                "bitsandbytes asks the Hub at every import where it is. Run `pip install kernels` in the environments "
                "of the machines with the GPUs that make and serve the model, and there alone; it downloads "
                "kernels-community/finegrained-fp8 from the Hub. Or leave fp8 out of compress.variants"
            )
        return value


class Evaluate(Section):
    """Answer the frozen test with base, champion and candidate, and measure."""

    task: TaskName = Field(
        "qa",
        description="Metrics by task. `qa`: token F1, exact match and all of `generation`, which is ROUGE, BLEU and "
        "reading ease; `classification`, the answer is a label: accuracy, macro F1; `multilabel`, it is labels "
        "separated by commas: their F1, Hamming loss, precision@k. Perplexity always.",
    )
    max_new_tokens: int = Field(96, ge=1, description="Longest answer, in tokens.")
    batch: int = Field(16, ge=1, description="Items that are answered together.")
    k: int = Field(3, ge=1, description="For `multilabel`: k of precision@k.")
    bootstrap: int = Field(2000, ge=100, description="Bootstrap resamples of every interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap.")
    slice_items: int = Field(5, ge=1, description="Sources, topics and lengths with fewer items get no figures.")
    worst: int = Field(15, ge=0, description="Answers that the report shows side by side, in each of its lists.")
