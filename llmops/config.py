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
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from llmops.errors import ConfigError


class Unhashed:
    """Marks a field that says where or how fast, not what: it does not change an artifact's fingerprint."""


Where = Annotated[Path, Unhashed()]


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
    kind: Literal["csv", "json", "jsonl", "xml", "html", "pdf", "sql", "chat", "text"] = Field(
        description="How to read it. `chat` reads transcripts (.txt) and OpenAI-style messages (.jsonl)."
    )
    location: str = Field(
        description="File path or glob, relative to the configuration file; for `sql` an SQLAlchemy URL, in which "
        "${VAR} is read from the environment. `{date}` becomes the data interval's date."
    )
    query: str = Field(
        "",
        description="For `sql`: the query; may use :start and :end, the first day of the data interval and the day "
        "after it. Give it an ORDER BY, so that its rows keep their numbers.",
    )
    records: str = Field(
        "", description="For `json` and `xml`: path of the repeated record, e.g. `shop/product` (XML: from the root)."
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Which field of a `csv`, `json`, `jsonl`, `xml` or `sql` source is the document's question, "
        "answer, context, same_as (a known question that this one is another wording of), group or text. Nested "
        "fields are written `author.name`. Without a question, a row keeps all its fields for `annotate.templates`.",
    )
    where: dict[str, str] = Field(default_factory=dict, description="Keep only rows whose fields have these values.")
    encoding: str = Field("", description="Encoding; empty detects it.")
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
        elif value and kind in ("html", "pdf", "chat", "text"):
            raise ValueError(f"a source of kind `{kind}` has no named fields")
        return value

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

    @field_validator("sources")
    @classmethod
    def _own_names(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two sources are named {twice!r}")
        return value


class Clean(Section):
    """Clean documents with Spark and drop, with reasons, what cannot be used."""

    master: Annotated[str, Unhashed()] = Field("local[*]", description="Spark master.")
    driver_memory: Annotated[str, Unhashed()] = Field("1g", description="Spark driver memory.")
    partitions: Annotated[int, Unhashed()] = Field(8, ge=1, description="Spark shuffle partitions.")
    min_chars: int = Field(2, ge=0, description="Shortest question, answer or text that is kept.")
    max_chars: int = Field(20_000, gt=0, description="Longest question, answer, context or text that is kept.")
    max_symbol_ratio: float = Field(
        0.5, gt=0, le=1, description="Largest share of characters that are not letters, digits or spaces."
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
    max_answer_sentences: int = Field(0, ge=0, description="Cut answers to this many sentences; 0 keeps them whole.")
    max_answer_chars: int = Field(1200, gt=0, description="Drop answers longer than this, before they are cut.")
    max_context_chars: int = Field(1200, ge=0, description="Cut contexts to this many characters.")
    split_by: Literal["group", "wording"] = Field(
        "group",
        description="`group`: all wordings of a topic fall in one split, so the test asks about topics never trained "
        "on. `wording`: each topic keeps at least one wording in train and the test holds out other wordings of it.",
    )
    validation: float = Field(0.1, gt=0, lt=1, description="Share of groups (or wordings) for validation.")
    test: float = Field(0.22, gt=0, lt=1, description="Share of groups (or wordings) for the frozen test.")
    test_sources: tuple[str, ...] = Field((), description="Take test items from these sources only; empty: from all.")
    max_test_items: int = Field(
        0, ge=0, description="At most this many test items, the rest is trained on; 0: no limit."
    )
    min_test_items: int = Field(
        60, ge=1, description="Fewer test items than this is an error: the gate could not decide."
    )
    seed: int = Field(0, description="Changes which groups fall where.")

    @model_validator(mode="after")
    def _possible(self) -> Annotate:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave a share for training: less than 1")
        if 0 < self.max_test_items < self.min_test_items:
            raise ValueError("max_test_items is below min_test_items")
        return self


class Select(Section):
    """Choose the base model."""

    model: str = Field("", description="A model id of the catalogue, or a local folder; empty lets the filter choose.")
    revision: str = Field("", description="Revision of a Hub model; empty takes the catalogue's.")
    licences: tuple[str, ...] = Field(
        ("apache-2.0", "mit"), description="Licences that are allowed, as SPDX ids in lower case."
    )
    max_memory_gib: float = Field(0.0, ge=0, description="Memory for training in 4 bits; 0 asks the machine.")
    offline: bool = Field(True, description="Only models that need no download.")


class Features(Section):
    """Tokenise examples and put them into Feast."""

    repo: Where = Field(
        Path("feature_repo"), description="The Feast feature repository; a relative path starts from this project's."
    )
    store: Where = Field(Path(), description="Folder of the online store; empty: `<home>/feast`.")
    max_tokens: int = Field(512, ge=16, description="Longer examples are cut at the context, never at the answer.")
    online_batch: Annotated[int, Unhashed()] = Field(500, ge=1, description="Examples per write to the online store.")


class Tune(Section):
    """Search hyperparameters with HyperOpt, from a starting point that is usually good."""

    trials: int = Field(3, ge=0, description="Trials; 0 skips the search and takes its starting point.")
    steps: int = Field(8, ge=1, description="Optimiser steps of one trial.")
    learning_rate: tuple[float, float] = Field((1e-5, 1e-3), description="Bounds of the log-uniform learning rate.")
    rank: tuple[int, ...] = Field((8, 16), description="LoRA ranks to try.")
    batch: tuple[int, ...] = Field((4, 8), description="Examples per optimiser step to try.")
    validation_items: int = Field(24, ge=1, description="Validation examples a trial is judged on.")
    seed: int = Field(0, description="Seed of the search and of its trials.")

    @field_validator("learning_rate")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("learning_rate needs 0 < low <= high <= 1")
        return value


class Train(Section):
    """Fine-tune with QLoRA."""

    method: Literal["qlora", "lora"] = Field("qlora", description="`qlora`: the base in NF4; `lora`: in bfloat16.")
    epochs: float = Field(3.0, gt=0, description="Passes over the training examples.")
    learning_rate: float = Field(0.0, ge=0, description="Peak learning rate; 0 takes what `tune` found.")
    rank: int = Field(0, ge=0, description="LoRA rank; 0 takes what `tune` found.")
    batch: int = Field(0, ge=0, description="Examples per optimiser step; 0 takes what `tune` found.")
    alpha: int = Field(0, ge=0, description="LoRA alpha; 0 means twice the rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")
    target_modules: tuple[str, ...] = Field((), description="Layers that get an adapter; empty: all linear layers.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps with rising learning rate.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    checkpoint_steps: Annotated[int, Unhashed()] = Field(10, ge=1, description="Steps between checkpoints.")
    servable: Literal["nf4", "bf16"] = Field(
        "nf4", description="What is served: the base in NF4 with the adapter beside it, or both merged in bfloat16."
    )
    seed: int = Field(0, description="Seed of adapter initialisation and data order.")


class Evaluate(Section):
    """Answer the frozen test with base, champion and candidate, and measure."""

    max_new_tokens: int = Field(96, ge=1, description="Longest answer, in tokens.")
    batch: int = Field(16, ge=1, description="Items that are answered together.")
    bootstrap: int = Field(2000, ge=100, description="Bootstrap resamples of every interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap.")


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
    poll_s: float = Field(1.0, gt=0, description="Seconds between looks at the registry's aliases.")
    threads: int = Field(0, ge=0, description="Torch threads; 0: all cores.")


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
        features = dict(value.get("features") or {})
        features["store"] = Path(features.get("store") or home / "feast").absolute()
        return {**value, "home": home, "release": release, "features": features}

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
        return self.home / "keys.json"


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "…"
