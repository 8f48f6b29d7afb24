"""The stages and `run_stage()`: the only way a stage is ever run.

The command line, the DAG and the tests all call `run_stage`. A stage's word is its key in `STAGES`, its section of the
configuration, its task_id and its artifact folder. A stage is a function
`run(config: Section, *, <inputs>: Path…, out: Path) -> Metrics` that knows nothing of Airflow, of fingerprints or of
other stages.

    python -m llmops run all
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops import artifacts
from llmops.artifacts import Record
from llmops.code_version import code_version
from llmops.config import Config, Section
from llmops.errors import ArtifactError

log = logging.getLogger("llmops.pipeline")

Metrics = Mapping[str, Any]  #: name → number, text or list, as JSON can hold it; stored in the record


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline."""

    module: str  #: module whose function `run` does the work
    inputs: tuple[str, ...] = ()  #: stages whose artifacts it reads
    interval: bool = False  #: reads the data interval itself, not only through its inputs
    sources: bool = False  #: reads the sources: their content counts as its input
    declarations: bool = False  #: reads the Feast feature repository: its content counts as its input
    champion: bool = False  #: also reads the champion's version folder, if there is one
    paths: tuple[str, ...] = ()  #: paths of the configuration that it is given: they say where, and decide no result
    resumable: bool = False  #: goes on from what an interrupted run left in its folder
    #: other sections that it is given, each with the fields that it has no use for: it sees their defaults, so that
    #: they change neither its result nor its fingerprint
    sections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


STAGES: dict[str, Stage] = {
    "collect": Stage("llmops.data.collect.stage", interval=True, sources=True),
    "clean": Stage("llmops.data.clean.stage", ("collect",)),
    "annotate": Stage("llmops.data.annotate.stage", ("clean",)),
    "select": Stage("llmops.model.select.stage", ("annotate",)),
    "features": Stage("llmops.features.stage", ("annotate", "select"), declarations=True),
    "tune": Stage(
        "llmops.model.tune.stage",
        ("features", "select"),
        resumable=True,
        sections={"train": ("epochs", "validate_steps", "patience", "report_to", "seed")},
    ),
    "train": Stage("llmops.model.train.stage", ("features", "select", "tune"), resumable=True),
    "compress": Stage("llmops.model.compress.stage", ("annotate", "features", "select", "train"), resumable=True),
    "evaluate": Stage("llmops.model.evaluate.stage", ("annotate", "select", "compress"), champion=True),
    "govern": Stage("llmops.govern.stage", ("annotate", "compress", "evaluate")),
    "release": Stage(
        "llmops.release.stage",
        ("train", "compress", "select", "annotate", "evaluate", "govern"),
        champion=True,
        paths=("events",),
    ),
    "deploy": Stage("llmops.deploy.stage", ("release",), paths=("home", "events", "keys")),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a stage's artifact belongs, and what it would be made from."""

    stage: str
    path: Path
    inputs: dict[str, Path]
    interval: str

    @property
    def done(self) -> bool:
        """Whether the artifact is there and whole."""
        return artifacts.is_done(self.path)


def run_stage(
    name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None, run: str = ""
) -> Path:
    """Run one stage, unless its artifact is already there; returns the artifact's path.

    Args:
        name: key of `STAGES`.
        config: the whole configuration.
        interval: ISO date of the data interval.
        inputs: artifact paths of the input stages; by default those that `plan` finds.
        run: the orchestrator's run id, kept in the record.

    Raises:
        ArtifactError: if an input is not finished.
    """
    todo = plan(name, config, interval, inputs)
    for source, path in todo.inputs.items():
        if source != "champion" and not artifacts.is_done(path):
            raise ArtifactError(
                f"Stage {name} needs {source}, which has no finished artifact at {path}; run {source} first."
            )
    with artifacts.locked(config.artifacts, shared=True), artifacts.locked(todo.path):
        if todo.done:
            log.info("%s: done already, %s", name, todo.path)
            return todo.path
        record = _build(todo, config, run)
    log.info("%s: %s", name, record.metrics)
    _announce(config, record)
    return todo.path


def plan(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None) -> Plan:
    """Find the artifact path of a stage from its configuration and inputs, without running anything.

    Raises:
        SourceError: if a file source cannot be found.
    """
    return _plan(name, config, interval, dict(inputs or {}))


def _plan(name: str, config: Config, interval: str, known: dict[str, Path]) -> Plan:
    """`known` gains the path of every stage that is planned on the way."""
    stage = STAGES[name]
    for source in stage.inputs:
        if source not in known:
            known[source] = _plan(source, config, interval, known).path
    paths = {source: known[source] for source in stage.inputs}
    if stage.champion and (champion := _champion(config, paths["compress"].name)):
        paths["champion"] = champion
    refs = _refs(paths)
    if stage.sources:
        refs["sources"] = _content(config, interval)
    if stage.declarations:
        refs["declarations"] = _declarations(config)
    own = interval if stage.interval else ""
    key = artifacts.fingerprint(name, _hashed(config, name), refs, own, code_version(stage.module))
    return Plan(name, artifacts.artifact_path(config.artifacts, name, key), paths, interval)


def _build(todo: Plan, config: Config, run: str) -> Record:
    stage, path = STAGES[todo.stage], todo.path
    if stage.resumable:
        path.mkdir(parents=True, exist_ok=True)
    else:
        artifacts.clear(path)
    log.info("%s: building %s", todo.stage, path)
    function: Callable[..., Metrics] = importlib.import_module(stage.module).run
    started = datetime.now(UTC)
    extra = {name: getattr(config, name) for name in stage.paths}
    extra |= {"interval": todo.interval} if stage.interval else {}
    metrics = function(_section(config, todo.stage), **_others(config, todo.stage), **todo.inputs, **extra, out=path)
    return artifacts.commit(
        path,
        Record(
            stage=todo.stage,
            fingerprint=path.name,
            config=_hashed(config, todo.stage),
            inputs=_refs(todo.inputs),
            interval=todo.interval,
            code=code_version(stage.module),
            metrics=dict(metrics),
            files={},
            git_commit=artifacts.git_commit(),
            started=started.isoformat(),
            finished=datetime.now(UTC).isoformat(),
            run=run,
        ),
    )


def _section(config: Config, name: str) -> Section:
    section: Section = getattr(config, name)
    return section


def _others(config: Config, name: str) -> dict[str, Section]:
    """The other sections that a stage is given, with defaults in the fields that it has no use for."""
    others = {}
    for other, useless in STAGES[name].sections.items():
        section = _section(config, other)
        defaults = {key: type(section).model_fields[key].default for key in useless}
        others[other] = section.model_copy(update=defaults)
    return others


def _hashed(config: Config, name: str) -> dict[str, Any]:
    """What of the configuration decides a stage's result, as JSON values."""
    return _section(config, name).hashed() | {n: other.hashed() for n, other in _others(config, name).items()}


def _refs(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: f"{path.parent.name}/{path.name}" for name, path in sorted(paths.items())}


def _content(config: Config, interval: str) -> str:
    from llmops.data.collect.files import content

    return content(config.collect, interval)


def _declarations(config: Config) -> str:
    from llmops.features.declarations import repository_hash

    return repository_hash(config.features)


def _champion(config: Config, candidate: str) -> Path | None:
    """The version a candidate is compared with: the one it was, if it has been decided on, else today's champion."""
    from llmops.registry.registry import registry_of

    return registry_of(config).opponent(candidate)


def _announce(config: Config, record: Record) -> None:
    from llmops.monitoring.events import emit

    emit(
        config.events,
        "llmops.pipeline",
        {
            "event.action": record.stage,
            "event.duration": int(
                (datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)).total_seconds() * 1e9
            ),
            "event.outcome": "success",
            "llmops.artifact": f"{record.stage}/{record.fingerprint}",
            "llmops.interval": record.interval,
            "llmops.run": record.run,
            "llmops.metrics": record.metrics,
        },
    )
