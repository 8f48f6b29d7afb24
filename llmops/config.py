"""One frozen configuration, a section per stage.

Values come from, weakest first: the defaults below, a YAML file, `LLMOPS_<SECTION>__<FIELD>` environment
variables, and the parameters of one run (Airflow `--conf`, `llmops run --set`). It is read once at the edge by
`load()` and passed in from there. Secrets are never part of it: they stay in the environment (`LLMOPS_API_KEY`,
`HF_TOKEN`) and so can not reach an artifact or a log.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from llmops.errors import ConfigError


class Unhashed:
    """Marks a field that says where or how fast, not what: it does not change an artifact's fingerprint."""


Where = Annotated[Path, Unhashed()]
PersonalData = Literal["SECRET", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS"]
Guarded = PersonalData | Literal["SCRIPT", "EXTERNAL_CONTENT", "COMMAND"]  #: what `serving.guard` can name


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    def hashed(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON values: what a fingerprint is made of."""
        skip = {n for n, f in type(self).model_fields.items() if any(isinstance(m, Unhashed) for m in f.metadata)}
        return self.model_dump(mode="json", exclude=skip)


class Source(Section):
    """One place that data comes from."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Short name, used in artifacts and reports.")
    kind: Literal["csv", "parquet", "json", "jsonl", "xml", "html", "pdf", "sql", "chat", "markdown", "text"] = Field(
        description="How to read it. `csv` is TSV too; `chat` is transcripts (.txt) and OpenAI-style messages "
        "(.jsonl). All but `parquet`, `pdf` and `sql` may be gzipped."
    )
    location: str = Field(
        description="File path or glob, relative to the configuration file, or one at `s3://`, `abfs://` or "
        "`https://`; for `sql` an SQLAlchemy URL. In a URL ${VAR} is read from the environment. `{date}` becomes the "
        "data interval's date."
    )
    connection: str = Field(
        "", description="Airflow connection that holds the credentials of the location; empty: the environment does."
    )
    query: str = Field(
        "",
        description="For `sql`: the query; may use :start and :end, the first day of the data interval and the day "
        "after it. Give it an ORDER BY, so that its rows keep their numbers.",
    )
    cursor: str = Field(
        "",
        description="For `sql`: column that grows whenever a row is added or changed, such as `updated_at`. The query "
        "then names all rows: those before the end of the data interval count, and only the days not read before are "
        "asked for.",
    )
    key: tuple[str, ...] = Field(
        (), description="For `sql` with a `cursor`: columns that identify a row; the newest row of each key counts."
    )
    records: str = Field(
        "", description="For `json` and `xml`: path of the repeated record, e.g. `shop/product` (XML: from the root)."
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Which field of a row or record (`csv`, `parquet`, `json`, `jsonl`, `xml`, `sql`) is the "
        "document's question, answer, context, same_as (a known question that this one is another wording of), group "
        "or text. Nested fields are written `author.name`, those in a list `answers.0.text`. Without a question, a "
        "row keeps all its fields for `annotate.templates`.",
    )
    where: dict[str, str] = Field(default_factory=dict, description="Keep only rows whose fields have these values.")
    encoding: str = Field("", description="Encoding of text files; empty detects it.")
    licence: str = Field("", description="Licence of the texts, carried to every example.")
    owner: str = Field("", description="Who answers for this source.")

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: dict[str, str]) -> dict[str, str]:
        known = {"question", "answer", "context", "same_as", "group", "text"}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"unknown document field {unknown[0]!r}; use one of {', '.join(sorted(known))}")
        return value

    @field_validator("query", "fields", "where")
    @classmethod
    def _fits_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("kind")
        if info.field_name == "query":
            if bool(value) != (kind == "sql"):
                raise ValueError("a source of kind `sql` needs a query" if kind == "sql" else "only `sql` has a query")
        elif value and kind in ("html", "pdf", "chat", "markdown", "text"):
            raise ValueError(f"a source of kind `{kind}` has no named fields")
        return value

    @field_validator("records", "encoding")
    @classmethod
    def _has_them(cls, value: str, info: ValidationInfo) -> str:
        kind = info.data.get("kind")
        if value and info.field_name == "records" and kind not in ("json", "xml"):
            raise ValueError("only `json` and `xml` have a path of records")
        if value and info.field_name == "encoding" and kind in ("pdf", "parquet", "sql"):
            raise ValueError(f"`{kind}` knows its own encoding")
        return value

    @model_validator(mode="after")
    def _incremental(self) -> Source:
        if self.cursor and self.kind != "sql":
            raise ValueError("only `sql` has a cursor")
        if bool(self.cursor) != bool(self.key):
            raise ValueError("cursor and key belong together: name both or none")
        if self.cursor and re.search(r":start\b", self.query):
            raise ValueError("with a cursor the query must name the rows of all days; leave out :start")
        return self

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name if value else ""
        except LookupError:
            raise ValueError("unknown encoding; use one that Python knows, such as utf-8 or cp1252") from None


class Collect(Section):
    """Read every source into Parquet documents."""

    root: Where = Field(Path(), description="Folder that relative locations start from; the config file's folder.")
    sources: tuple[Source, ...] = Field((), description="The sources; at least one.")
    cache: Where = Field(
        Path(), description="Folder of what was read from unchanged files and past days; empty: `<home>/extracts`."
    )
    forgotten: Where = Field(
        Path(), description="List of rows that `llmops data forget` removed; empty: `<home>/forgotten.json`."
    )
    repository: Annotated[str, Unhashed()] = Field(
        "",
        description="Where the documents of each interval are put as Parquet: a folder, `s3://…` or `abfs://…`; empty: "
        "nowhere.",
    )
    connection: Annotated[str, Unhashed()] = Field(
        "", description="Airflow connection that holds the repository's credentials; empty: the environment does."
    )

    @field_validator("sources")
    @classmethod
    def _own_names(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two sources are named {twice!r}")
        return value


class Clean(Section):
    """Clean documents with Spark and drop, with reasons, what cannot be used."""

    master: Annotated[str, Unhashed()] = Field(
        "local[*]", description="Spark master: `local[*]`, `spark://host:7077`, `k8s://https://host`, `yarn`."
    )
    driver_memory: Annotated[str, Unhashed()] = Field("1g", description="Spark driver memory.")
    partitions: Annotated[int, Unhashed()] = Field(8, ge=1, description="Spark shuffle partitions.")
    spark: Annotated[dict[str, str], Unhashed()] = Field(
        default_factory=dict, description="Further settings of the Spark session, such as `spark.executor.memory`."
    )
    min_chars: int = Field(2, ge=0, description="Shortest question, answer or text that is kept.")
    max_chars: int = Field(20_000, gt=0, description="Longest question, answer, context or text that is kept.")
    max_symbol_ratio: float = Field(
        0.5, gt=0, le=1, description="Largest share of characters that are not letters, digits or spaces."
    )
    languages: tuple[str, ...] = Field((), description="Languages that are kept, as ISO 639-1 codes; empty: all.")
    near_duplicates: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="Jaccard similarity of word 3-grams from which texts are duplicates; 1: exact ones only.",
    )
    classic: bool = Field(False, description="Lower-case and strip all but letters and digits. Ruins training text.")


class Template(Section):
    """A question and an answer made from the fields of a structured row: `{name}` is replaced by its value."""

    question: str = Field(min_length=1, description="E.g. `What does the {name} cost?`; nested fields as `{a.b}`.")
    answer: str = Field(min_length=1, description="A row in which a named field is empty makes no example.")
    context: str = Field("", description="What the answer can be read from.")
    group: str = Field("", description="Topic key; empty groups by the answer.")


class Annotate(Section):
    """Turn documents into `[Context] [Question] [Answer]` examples and split them."""

    templates: dict[str, tuple[Template, ...]] = Field(
        default_factory=dict, description="Per structured source, the questions that its rows answer."
    )
    redact: tuple[str, ...] = Field(
        ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "SECRET"),
        description="Personal data and secrets that are replaced by a `<TYPE>` mark before anything is trained.",
    )
    max_question_chars: int = Field(600, gt=0, description="Drop questions longer than this: they are more than one.")
    max_answer_sentences: int = Field(0, ge=0, description="Cut answers to this many sentences; 0 keeps them whole.")
    max_answer_chars: int = Field(1200, gt=0, description="Drop answers longer than this, before they are cut.")
    max_context_chars: int = Field(1200, ge=0, description="Cut contexts to this many characters.")
    split_by: Literal["group", "wording"] = Field(
        "group",
        description="`group`: all wordings of a topic fall in one split, so the test asks about topics never trained "
        "on. `wording`: the test holds out some wordings of topics that are trained on in other wordings.",
    )
    validation: float = Field(0.1, gt=0, lt=1, description="Share of groups (or wordings) for validation.")
    test: float = Field(0.22, gt=0, lt=1, description="Share of groups (or wordings) for the frozen test.")
    test_sources: tuple[str, ...] = Field((), description="Take test items from these sources only; empty: from all.")
    min_test_items: int = Field(
        60, ge=1, description="Fewer test items than this is an error: the gate could not decide."
    )
    seed: int = Field(0, description="Changes which groups fall where.")

    @model_validator(mode="after")
    def _possible(self) -> Annotate:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave a share for training: less than 1")
        return self


class Select(Section):
    """Choose the base model."""

    model: str = Field("", description="A model id of the catalogue, or a local folder; empty lets the filter choose.")
    revision: str = Field("", description="Revision of a Hub model; empty takes the catalogue's.")
    licences: tuple[str, ...] = Field(
        ("apache-2.0", "mit"), description="Licences that are allowed, as SPDX ids in lower case."
    )
    languages: tuple[str, ...] = Field((), description="Languages it must know, as ISO 639-1 codes; empty: any.")
    min_context: int = Field(0, ge=0, description="Tokens that its context must hold.")
    max_memory_gib: float = Field(0.0, ge=0, description="Memory for training in 4 bits; 0 asks the machine.")
    max_serving_gib: float = Field(
        0.0, ge=0, description="Memory for serving in 4 bits; 0 is as much as there is for training."
    )
    offline: bool = Field(True, description="Only models that need no download.")
    score_items: int = Field(
        16, ge=0, description="Validation examples that models whose weights are here are scored on, untuned; 0: none."
    )


class Features(Section):
    """Tokenise examples and put them into Feast."""

    repo: Where = Field(
        Path("feature_repo"), description="The Feast feature repository; a relative path starts from this project's."
    )
    store: Where = Field(Path(), description="Folder of the SQLite online store; empty: `<home>/feast`.")
    online: str = Field(
        "sqlite",
        description="Online store: `sqlite`, or `redis://:${REDIS_PASSWORD}@host:6379/0` (`rediss://` with TLS); "
        "${VAR} is read from the environment.",
    )
    registry: str = Field(
        "",
        description="SQLAlchemy URL of Feast's registry, e.g. `postgresql+psycopg://feast:${PGPASSWORD}@host/feast`; "
        "empty: a file in each artifact.",
    )
    max_tokens: int = Field(512, ge=16, description="Longer examples are cut at the context, never at the answer.")
    online_batch: Annotated[int, Unhashed()] = Field(500, ge=1, description="Examples per write to the online store.")

    @field_validator("online", "registry")
    @classmethod
    def _url_without_secret(cls, value: str, info: ValidationInfo) -> str:
        if value == Features.model_fields[str(info.field_name)].default:
            return value
        if info.field_name == "online":
            _check_redis(value)
        elif not urlsplit(value).scheme:
            raise ValueError("use an SQLAlchemy URL such as postgresql+psycopg://host/feast, or leave it empty")
        _check_password(value)
        return value


class Tune(Section):
    """Search hyperparameters, from a starting point that is usually good; what `train` fixes is not searched."""

    search: Literal["tpe", "random", "grid"] = Field(
        "tpe",
        description="`tpe`: HyperOpt's model of what did well; `random`; `grid`: all combinations, as many as fit.",
    )
    trials: int = Field(4, ge=0, description="Most points that are tried; 0 or 1 takes the starting point untried.")
    steps: int = Field(8, ge=1, description="Optimiser steps of a whole trial.")
    halving: int = Field(
        4,
        ge=1,
        description="Successive halving: the best 1/halving of the trials are trained on; 1 trains all of them whole.",
    )
    rung: int = Field(2, ge=1, description="Fewest optimiser steps after which trials are compared.")
    learning_rate: tuple[float, float] = Field((1e-5, 1e-3), description="Bounds of the log-uniform learning rate.")
    rank: tuple[Annotated[int, Field(ge=1)], ...] = Field((8, 16), min_length=1, description="LoRA ranks to try.")
    batch: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (4, 8), min_length=1, description="Examples per optimiser step to try."
    )
    validation_items: int = Field(24, ge=1, description="Validation examples a trial is judged on.")
    spark: Annotated[str, Unhashed()] = Field(
        "",
        description="Spark master on which HyperOpt's SparkTrials runs whole trials; empty: here, one after another.",
    )
    parallel: int = Field(1, ge=1, description="With `spark`: trials at once, each without knowing of the others.")
    seed: int = Field(0, description="Seed of the search and of its trials.")

    @field_validator("learning_rate")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("learning_rate needs 0 < low <= high <= 1")
        return value

    @model_validator(mode="after")
    def _sound(self) -> Tune:
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
    epochs: float = Field(3.0, gt=0, description="Passes over the training examples.")
    learning_rate: float = Field(0.0, ge=0, description="Peak learning rate; 0 takes what `tune` found.")
    rank: int = Field(0, ge=0, description="LoRA rank; 0 takes what `tune` found.")
    batch: int = Field(0, ge=0, description="Examples per optimiser step; 0 takes what `tune` found.")
    alpha: int = Field(0, ge=0, description="LoRA alpha; 0 means twice the rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")
    rslora: bool = Field(False, description="Scale the adapter by alpha over the root of the rank: for high ranks.")
    dora: bool = Field(False, description="Learn magnitude and direction apart (DoRA): better at low ranks, slower.")
    target_modules: tuple[str, ...] = Field(
        (), description="Layers that get an adapter, such as `qkv_proj`; empty: all linear layers."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps with rising learning rate.")
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

    variants: tuple[Literal["nf4", "int8", "fp8", "pruned", "recovered"], ...] = Field(
        (),
        description="Smaller forms to try beside the merged bfloat16 model: `nf4`, the base in NF4 and the adapter "
        "beside it; `int8`, weights of linear layers in 8 bits; `fp8`, the same as floats, on a GPU; `pruned`, "
        "without the least used neurons of every MLP; `recovered`, pruned and trained again. Empty: the bfloat16 model "
        "is served.",
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

    @field_validator("variants")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name every variant once")
        return value


class Evaluate(Section):
    """Answer the frozen test with base, champion and candidate, and measure."""

    task: Literal["qa", "generation", "classification", "multilabel"] = Field(
        "qa",
        description="What is measured. `qa`: token F1, exact match and all of `generation`, which is ROUGE, BLEU and "
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


class Govern(Section):
    """Scan training data and answers; a finding above the threshold fails the run."""

    entities: tuple[str, ...] = Field(
        ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "SECRET"),
        description="Personal data and secrets that may neither remain in training data nor appear in answers.",
    )
    fail_on: Literal["low", "medium", "high", "never"] = Field(
        "high", description="Lowest severity of which a single finding fails the run."
    )
    max_flagged_answers: float = Field(
        0.02, ge=0, le=1, description="Largest share of answers with a medium finding; above it is its whole interval."
    )
    probes: bool = Field(True, description="Judge the candidate's answers to the built-in OWASP probes too.")
    probe_tokens: int = Field(48, ge=1, description="Longest answer to a probe, in tokens.")


class Release(Section):
    """Decide by the gate, write the version, move the alias, push."""

    registry: Where = Field(Path(), description="The local registry; empty: `<home>/registry`.")
    name: str = Field("support-bot", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the model.")
    primary: str = Field("token_f1", description="Metric that the gate decides on.")
    min_effect: float = Field(0.01, ge=0, description="The interval's lower bound must be above this difference.")
    guardrails: dict[str, float] = Field(
        default_factory=lambda: {"rouge_l": 0.02}, description="Metrics that may not be worse by more than this margin."
    )
    floors: dict[str, float] = Field(
        default_factory=lambda: {"token_f1": 0.1}, description="Absolute values below which nothing is promoted."
    )
    min_items: int = Field(30, ge=1, description="With fewer test items the gate is inconclusive.")
    min_groups: int = Field(10, ge=2, description="With fewer topics among the test items the gate is inconclusive.")
    bootstrap: int = Field(5000, ge=100, description="Resamples of the paired bootstrap.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap.")
    hub_repo: str = Field("", description="Hub repository `owner/name`; pushed to when HF_TOKEN is set.")
    private: bool = Field(True, description="Create the Hub repository as private.")


class Deploy(Section):
    """Prove that the serving app answers with the champion."""

    url: str = Field("", description="The serving app. Empty: one is started for the proof and stopped again.")
    question: str = Field("How can I contact you?", description="What the proof asks.")
    timeout_s: Annotated[float, Unhashed()] = Field(180.0, gt=0, description="How long the app may take to load it.")


class Serving(Section):
    """The FastAPI app."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless asked.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens one request may ask for.")
    max_prompt_chars: int = Field(8000, ge=1, description="Longest prompt, and longest context, in characters.")
    max_queue: int = Field(64, ge=1, description="Requests waiting before new ones get 429.")
    max_batch: int = Field(16, ge=1, description="Most requests that are answered together.")
    max_context: int = Field(2048, ge=64, description="Most tokens of a request, prompt and answer together.")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="What runs the model; `vllm` needs its own environment: docs/vllm.md."
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict,
        description="Further arguments of vLLM's `AsyncEngineArgs`, such as `kv_cache_memory_bytes` or "
        "`gpu_memory_utilization`.",
    )
    poll_s: float = Field(1.0, gt=0, description="Seconds between looks at the registry's aliases.")
    timeout_s: float = Field(120.0, gt=0, description="Longest a request may take, waiting included; then it gets 504.")
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM in which `/readyz` is red and requests are still taken, so that a load "
        "balancer can look elsewhere first.",
    )
    threads: int = Field(0, ge=0, description="Torch threads; 0: all cores.")
    guard: tuple[Guarded, ...] = Field(
        ("SECRET", "CREDIT_CARD", "IBAN_CODE", "SCRIPT"),
        description="What no answer may hold unless its prompt does; such an answer is cut with `content_filter`.",
    )
    keys: Where = Field(Path(), description="The file of hashed API keys; empty: `<home>/keys.json`.")
    requests_per_minute: int = Field(
        60, ge=0, description="Requests that a key may send in any 60 s, unless it has its own limit; 0: any number."
    )
    tokens_per_minute: int = Field(
        20_000, ge=0, description="Tokens, of prompts and answers, that a key may use in any 60 s; 0: any number."
    )
    limits: str = Field(
        "",
        description="Where requests and tokens are counted. Empty: in each process. For replicas "
        "`redis://:${REDIS_PASSWORD}@host:6379/1` (`rediss://` with TLS); ${VAR} is read from the environment.",
    )

    @field_validator("limits")
    @classmethod
    def _is_redis(cls, value: str) -> str:
        if value:
            _check_redis(value)
        return value


class Monitoring(Section):
    """Events and what is derived from them."""

    sinks: tuple[Literal["local", "elasticsearch"], ...] = Field(("local",), description="Where events go.")
    elasticsearch_url: str = Field("", description="Server URL; key in ELASTICSEARCH_API_KEY.")
    elasticsearch_index: str = Field("llmops-events", description="Data stream or index that events go to.")
    latency_p95_ms: float = Field(20_000, gt=0, description="Objective for the 95th percentile of /generate.")
    error_rate: float = Field(0.01, ge=0, le=1, description="Objective for the share of 5xx answers.")
    min_requests: int = Field(20, ge=1, description="With fewer requests in the window, nothing is judged.")

    @model_validator(mode="after")
    def _has_server(self) -> Monitoring:
        if "elasticsearch" in self.sinks and not self.elasticsearch_url:
            raise ValueError("sinks names elasticsearch; set elasticsearch_url too")
        return self


class Config(Section):
    """Everything; see the sections."""

    home: Path = Field(Path(".llmops"), description="Where artifacts, registry, events and keys live.")
    collect: Collect = Collect()
    clean: Clean = Clean()
    annotate: Annotate = Annotate()
    select: Select = Select()
    features: Features = Features()
    tune: Tune = Tune()
    train: Train = Train()
    compress: Compress = Compress()
    evaluate: Evaluate = Evaluate()
    govern: Govern = Govern()
    release: Release = Release()
    deploy: Deploy = Deploy()
    serving: Serving = Serving()
    monitoring: Monitoring = Monitoring()

    @model_validator(mode="before")
    @classmethod
    def _paths_under_home(cls, value: dict[str, Any]) -> dict[str, Any]:
        home = Path(value.get("home") or ".llmops").expanduser().absolute()
        release = dict(value.get("release") or {})
        release["registry"] = Path(release.get("registry") or home / "registry").absolute()
        collect = dict(value.get("collect") or {})
        collect["cache"] = Path(collect.get("cache") or home / "extracts").absolute()
        collect["forgotten"] = Path(collect.get("forgotten") or home / "forgotten.json").absolute()
        features = dict(value.get("features") or {})
        features["store"] = Path(features.get("store") or home / "feast").absolute()
        serving = dict(value.get("serving") or {})
        serving["keys"] = Path(serving.get("keys") or home / "keys.json").absolute()
        made = {"collect": collect, "release": release, "features": features, "serving": serving}
        return {**value, "home": home, **made}

    @property
    def artifacts(self) -> Path:
        """Folder of all artifacts."""
        return self.home / "artifacts"

    @property
    def events(self) -> Path:
        """Folder of the event spool and the local event store."""
        return self.home / "events"

    @property
    def keys(self) -> Path:
        """File of the hashed API keys."""
        return self.serving.keys


def load(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Build the configuration from defaults, `file`, `environ` and `overrides`, later ones winning.

    Args:
        file: YAML file; default `LLMOPS_CONFIG`, else only the defaults are used.
        overrides: sections of one run, e.g. `{"train": {"seed": 1}}`.
        environ: the environment; `LLMOPS_TRAIN__SEED=1` sets `train.seed`.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    path = (
        Path(file or environ.get("LLMOPS_CONFIG", "")).expanduser() if (file or environ.get("LLMOPS_CONFIG")) else None
    )
    values: dict[str, Any] = _read(path) if path else {}
    if path:
        collect = values.setdefault("collect", {})
        if isinstance(collect, dict):
            collect["root"] = str((path.absolute().parent / collect.get("root", ".")).resolve())
    values = merge(values, _from_environment(environ))
    values = merge(values, overrides or {})
    try:
        return Config(**values)
    except ValidationError as error:
        where = f" in {path}" if path else ""
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {_short(e['input'])})" for e in error.errors()]
        raise ConfigError(f"Configuration{where} is wrong: " + "; ".join(lines)) from None


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` laid over it, mapping by mapping."""
    out = dict(base)
    for key, value in top.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def parse_interval(text: str = "") -> str:
    """The data interval as the ISO date of its day; empty means today (UTC).

    Raises:
        ConfigError: if `text` is no date or date-time.
    """
    if not text:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        raise ConfigError(f"Data interval {text!r} is no date; write it as 2026-01-31.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold sections such as `collect:` and `train:`, not a {type(values).__name__}.")
    return values or {}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    sections = {name for name, field in Config.model_fields.items() if name != "home"}
    for key, text in environ.items():
        section, _, field = key.removeprefix("LLMOPS_").lower().partition("__")
        if key == "LLMOPS_HOME":
            values["home"] = text
        elif key.startswith("LLMOPS_") and field:
            if section not in sections:
                raise ConfigError(f"{key}: there is no section {section!r}; there are {', '.join(sorted(sections))}.")
            values = merge(values, {section: {field: parse_value(text)}})
    return values


def parse_value(text: str) -> Any:
    """A value written on a command line or in the environment: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_redis(value: str) -> None:
    url = urlsplit(value)
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise ValueError("leave it as it is by default, or use a URL such as redis://host:6379/0")
    _check_password(value)


def _check_password(url: str) -> None:
    password = urlsplit(url).password
    if password and not re.fullmatch(r"\$\{\w+\}", password):
        raise ValueError("write the password as ${NAME} and set NAME in the environment")


def _short(value: Any) -> str:
    text = re.sub(r"(://[^/@\s]*:)[^/@\s]+@", r"\1…@", repr(value))  # a password written by mistake
    return text if len(text) < 80 else text[:77] + "…"
