"""The configuration: frozen, with a section per stage.

Values come from, weakest first: the sections' defaults, a YAML file, environment variables `LLMOPS_<SECTION>__<FIELD>`,
and the parameters of one run (Airflow `--conf`, `llmops run --set`). `load()` reads it once, and callers pass it on.
Secrets are never part of it: they stay in the environment (`LLMOPS_API_KEY`, `HF_TOKEN`), so that no artifact or log
can contain them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from llmops.config.alerts import Alerts
from llmops.config.data import Clean, Collect, Index, Source, Speakers
from llmops.config.examples import Annotate, Features, Template
from llmops.config.improve import Improve
from llmops.config.model import DESCRIPTIVE, PRIMARY_METRICS, Compress, Evaluate, Select, Train, Tune, list_item_metrics
from llmops.config.monitoring import Monitoring
from llmops.config.release import Deploy, Govern, PushToHub, Release
from llmops.config.schedule import Schedule
from llmops.config.section import Section
from llmops.config.serving import Grounding, SearchServer, Serving
from llmops.config.space import make_encoder_defaults
from llmops.config.state import Retention, State
from llmops.frame.errors import ConfigError

__all__ = [
    "Alerts", "Annotate", "Clean", "Collect", "Compress", "Config", "Deploy", "Evaluate", "Features", "Govern",
    "Grounding", "Improve", "Index", "Monitoring", "PushToHub", "Release", "Retention", "Schedule", "SearchServer",
    "Section", "Select", "Serving", "Source", "Speakers", "State", "Template", "Train", "Tune", "load", "merge",
    "parse_value",
]  # fmt: skip


class Config(Section):
    """The whole configuration, a field per section."""

    home: Path = Field(Path(".llmops"), description="Where artifacts, registry, events and keys live.")
    collect: Collect = Collect()
    clean: Clean = Clean()
    index: Index = Index()
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
    push_to_hub: PushToHub = PushToHub()
    serving: Serving = Serving()
    grounding: Grounding = Grounding()
    monitoring: Monitoring = Monitoring()
    alerts: Alerts = Alerts()
    improve: Improve = Improve()
    schedule: Schedule = Schedule()
    state: State = State()
    retention: Retention = Retention()

    @model_validator(mode="before")
    @classmethod
    def _fill_paths(cls, value: dict[str, Any]) -> dict[str, Any]:
        home = Path(value.get("home") or ".llmops").expanduser().absolute()
        if dict(value.get("select") or {}).get("encoders"):
            defaults = make_encoder_defaults(value)
            value = {**value, **{name: made | dict(value.get(name) or {}) for name, made in defaults.items()}}
        release = dict(value.get("release") or {})
        release["registry"] = Path(release.get("registry") or home / "registry").absolute()
        collect = dict(value.get("collect") or {})
        collect["cache"] = Path(collect.get("cache") or home / "extracts").absolute()
        task = dict(value.get("evaluate") or {}).get("task")
        if task in PRIMARY_METRICS and task != "qa":  # the gate's own defaults are of the task `qa`
            release = {"primary": PRIMARY_METRICS[task], "guardrails": {}, "floors": {}} | release
        features = dict(value.get("features") or {})
        features["store"] = Path(features.get("store") or home / "feast").absolute()
        return {**value, "home": home, "collect": collect, "release": release, "features": features}

    @field_validator("home")
    @classmethod
    def _check_home(cls, home: Path) -> Path:
        existing = next(path for path in (home, *home.parents) if os.path.lexists(path))
        if not os.path.isdir(existing):  # noqa: PTH112 - Path.is_dir raises PermissionError
            raise ValueError(f"{existing} is no folder; give a folder, or a path where one can be made")
        return home

    @model_validator(mode="after")
    def _check_gate_metrics(self) -> Config:
        known = list_item_metrics(self.evaluate.task, self.evaluate.k)
        for field, named in (
            ("primary", [self.release.primary]),
            ("guardrails", self.release.guardrails),
            ("floors", self.release.floors),
        ):
            if unknown := [metric for metric in named if metric not in known]:
                raise ValueError(
                    f"release.{field} names {unknown[0]!r}, which is not measured of an answer when evaluate.task is "
                    f"{self.evaluate.task!r}; there are {', '.join(known)}"
                )
        if self.release.primary in DESCRIPTIVE:
            raise ValueError(
                f"release.primary is {self.release.primary!r}, which describes an answer but tells none that is better "
                "from one that is worse; name another"
            )
        return self

    @model_validator(mode="after")
    def _check_encoders(self) -> Config:
        if self.select.encoders and self.evaluate.task != "classification":
            raise ValueError("select.encoders names encoders, which only classify; set evaluate.task: classification")
        if self.annotate.out_of_scope and not self.select.encoders:
            raise ValueError("annotate.out_of_scope chooses the threshold of an encoder; set select.encoders")
        return self

    @model_validator(mode="after")
    def _check_index_sources(self) -> Config:
        known = [source.name for source in self.collect.sources]
        for field, names in (("include", self.index.include), ("leave_out", self.index.leave_out)):
            if known and (unknown := [name for name in names if name not in known]):
                raise ValueError(
                    f"index.{field} names {unknown[0]!r}, which is no source of collect.sources; there are "
                    f"{', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _check_search_server(self) -> Config:
        if self.grounding.elasticsearch and not self.monitoring.elasticsearch_url:
            raise ValueError("grounding.elasticsearch needs a server; set monitoring.elasticsearch_url too")
        return self

    @property
    def search_server(self) -> SearchServer | None:
        """Return the Elasticsearch that searches the served index; None: its files are searched."""
        name, monitoring = self.grounding.elasticsearch, self.monitoring
        return SearchServer(monitoring.elasticsearch_url, name, monitoring.ca_file) if name else None

    @property
    def artifacts(self) -> Path:
        """Return the folder of all artifacts."""
        return self.home / "artifacts"

    @property
    def events(self) -> Path:
        """Return the folder of the event spool and the local event store."""
        return self.home / "events"

    @property
    def database(self) -> str:
        """Return the URL of the database."""
        return self.state.url or f"sqlite:///{self.home / 'state.db'}"

    @property
    def registry(self) -> Path:
        """Return the folder of the model registry."""
        return self.release.registry


def load(
    file: str | Path | None = None, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Build the configuration from defaults, `file`, `environ` and `overrides`. Later ones win.

    Args:
        file: YAML file; default: `LLMOPS_CONFIG`, else none.
        overrides: sections of one run, e.g. `{"train": {"seed": 1}}`.
        environ: the environment; `LLMOPS_TRAIN__SEED=1` sets `train.seed`.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    path = (
        Path(file or environ.get("LLMOPS_CONFIG", "")).expanduser() if (file or environ.get("LLMOPS_CONFIG")) else None
    )
    values: dict[str, Any] = _read_file(path) if path else {}
    if path:
        collect = values.setdefault("collect", {})
        if isinstance(collect, dict):
            collect["root"] = str((path.absolute().parent / collect.get("root", ".")).resolve())
    values = merge(values, _read_environment(environ))
    values = merge(values, overrides or {})
    try:
        return Config(**values)
    except ValidationError as error:
        where = f" in {path}" if path else ""
        lines = (
            f"there is no key {'.'.join(map(str, e['loc']))}"
            if e["type"] == "extra_forbidden"
            else _format_mistake(".".join(map(str, e["loc"])), e["msg"], e["input"])
            for e in error.errors()
        )
        raise ConfigError(f"Configuration{where} is wrong: " + "; ".join(lines)) from None


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` overlaid with the values of `top`, recursively."""
    out = dict(base)
    for key, value in top.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold sections such as `collect:` and `train:`, not a {type(values).__name__}.")
    return values or {}


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
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
    """Parse a value from the command line or the environment: as JSON if it is JSON, else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _format_mistake(key: str, message: str, value: Any) -> str:
    """Format a mistake. A mistake between sections has no key; its message names the fields."""
    return f"{key}: {message} (got {_shorten(value)})" if key else message.removeprefix("Value error, ")


def _shorten(value: Any) -> str:
    text = re.sub(r"(://[^/@\s]*:)[^/@\s]+@", r"\1…@", repr(value))  # hide passwords
    return text if len(text) < 80 else text[:77] + "…"
