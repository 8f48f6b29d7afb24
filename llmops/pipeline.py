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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops import artifacts, sameness
from llmops.artifacts import Record
from llmops.code_version import code_version, git_commit
from llmops.config import Config
from llmops.monitoring import stage_events
from llmops.monitoring.figures import stages
from llmops.sameness import Stage
from llmops.schedule import intervals
from llmops.schedule.limit import time_limit
from llmops.schedule.transient import transient

if TYPE_CHECKING:
    from llmops.data.annotate.ledger import SplitLedger

log = logging.getLogger("llmops.pipeline")

Metrics = Mapping[str, Any]  #: name → number, text or list, as JSON can hold it; stored in the record

STAGES: dict[str, Stage] = {
    "collect": Stage(
        "llmops.data.collect.stage", interval=True, sources=True, paths=("database",),
        aside=("quarantine.parquet", "pairs.parquet"),
    ),
    "clean": Stage(
        "llmops.data.clean.stage", ("collect",), compute=True, aside=("dropped/*",),
        sections={"annotate": sameness.useless_to_clean},
    ),
    "index": Stage(
        "llmops.data.index.stage", ("clean",), before=True, libraries=sameness.VECTORS, read=("model",),
        aside=("index.db", "vectors.npy"),  # made of the passages, and not the same bit for bit everywhere
        sections={"annotate": sameness.useless_to_index},
    ),
    "annotate": Stage(
        "llmops.data.annotate.stage", ("clean",), ledger=True, sections={"grounding": sameness.useless_to_annotate},
        aside=("dropped.parquet",),
    ),
    "select": Stage(
        "llmops.model.select.stage",
        ("annotate",),
        base=True, compute=True, paths=("weight_hashes",),
        libraries=sameness.MODELS,
    ),
    "features": Stage(
        "llmops.features.stage",
        ("annotate", "select"),
        declarations=True,
        libraries=sameness.TOKENS,
        aside=("dropped.parquet", "registry.db"),  # Feast writes the time into its registry
        read=("examples", "tokens", "truncated"),
    ),
    "tune": Stage(
        "llmops.model.tune.stage",
        ("features", "select"),
        libraries=sameness.MODELS,
        compute=True,
        resumable=True,
        sections={"train": sameness.useless_to_a_search},
        aside=("trials.json",),
    ),
    "train": Stage(
        "llmops.model.train.stage",
        ("features", "select", "tune"),
        libraries=sameness.MODELS,
        compute=True,
        resumable=True,
        aside=("loss.json",),
    ),
    "compress": Stage(
        "llmops.model.compress.stage",
        ("annotate", "features", "select", "train"),
        libraries=sameness.ANSWERS,
        compute=True,
        resumable=True,
        aside=("compression.json",),
        read=("chosen",),
    ),
    "evaluate": Stage(
        "llmops.model.evaluate.stage",
        ("annotate", "select", "compress", "index"),
        champion=True, before=True, compute=True,
        libraries=sameness.ANSWERS,
        sections={"grounding": lambda evaluate: (), "train": sameness.useless_to_evaluate},
        aside=("asked*.json",),
    ),
    "govern": Stage("llmops.govern.stage", ("annotate", "compress", "evaluate"), libraries=sameness.ANSWERS),
    "release": Stage(
        "llmops.release.stage",
        ("train", "compress", "select", "annotate", "evaluate", "govern", "index"),
        champion=True, outside=True, day=True,
        paths=("events", "database", "search_server"),
        aside=("features/*",),
    ),
    "deploy": Stage(
        "llmops.deploy.stage", ("release",), paths=("home", "events", "registry", "database"), aside=("serving.log",)
    ),
    "push_to_hub": Stage(
        "llmops.push_to_hub.stage", ("release", "deploy"), paths=("events", "registry", "database"), outside=True
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a stage's artifact belongs, and what it would be made from."""

    stage: str
    path: Path
    inputs: dict[str, Path]
    contents: dict[str, str]  #: of the inputs that are artifacts
    interval: str
    ledger: SplitLedger | None = None  #: what it reads and writes of the split ledger
    sources: str = ""  #: content of the sources, of a stage that reads them

    @property
    def done(self) -> bool:
        """Whether the artifact is there and whole, and the ledger knows of it."""
        return artifacts.is_done(self.path) and (not self.ledger or self.ledger.written)


def run_stage(
    name: str,
    config: Config,
    interval: str,
    inputs: Mapping[str, Path] | None = None,
    run: str = "",
    attempt: int = 1,
) -> Path:
    """Run one stage, unless its artifact is already there; returns the artifact's path.

    A failure is an event, too.

    Args:
        name: key of `STAGES`.
        config: the whole configuration.
        interval: ISO date of the data interval, a day that has ended.
        inputs: artifact paths of the input stages; by default those that `plan` finds.
        run: the orchestrator's run id, kept in the record.
        attempt: which try of the orchestrator's this is.

    Raises:
        ConfigError: if the interval has not ended; nothing was read or written.
        ArtifactError: if an input is not finished or damaged, or inputs do not belong together.
        LlmopsError: if an erasure was interrupted, and nothing may be made before it is finished.
        TransientError: if it may well succeed at the next try; TimeLimitError if it takes longer than it may.
    """
    intervals.check_ended(interval)
    started = datetime.now(UTC)
    try:
        with time_limit(f"The stage {name}", config.schedule.seconds(name)):
            return _run_stage(name, config, interval, inputs, run)
    except Exception as error:
        named = transient(error) or error
        stage_events.failed(config.events, name, interval, run, attempt, started, named)
        if named is error:
            raise
        raise named from error


def _run_stage(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None, run: str) -> Path:
    sameness.prepare(STAGES[name], config, interval)
    todo = plan(name, config, interval, inputs)
    with artifacts.locked(config.artifacts, shared=True), artifacts.locked(todo.path):
        sameness.check_erased(config.erasure_journal)
        for source in STAGES[name].inputs:
            sameness.check_done(name, source, todo.inputs[source])  # it may have been removed since the plan
            artifacts.touch(todo.inputs[source])
        if todo.done and (not STAGES[name].outside or _call(todo, config, "stands")):
            log.info("%s: %s: %s", name, sameness.unchanged(artifacts.read_record(todo.path), interval), todo.path)
            artifacts.touch(todo.path)
            return todo.path
        record = _build(todo, config, run)
    log.info("%s", stages.told(todo.path, record))
    stage_events.made(config.events, record)
    return todo.path


def plan(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None) -> Plan:
    """Find the artifact path of a stage from its configuration and inputs, without running anything.

    Raises:
        SourceError: if a file source cannot be found.
        ArtifactError: if an input is not finished, so that what it will hold is not known, or the base model's weights
            are damaged.
    """
    return _plan(name, config, interval, dict(inputs or {}))


def _plan(name: str, config: Config, interval: str, known: dict[str, Path]) -> Plan:
    """`known` gains the path of every stage that is planned on the way."""
    stage = STAGES[name]
    for source in stage.inputs:
        if source not in known:
            known[source] = _plan(source, config, interval, known).path
    paths = {source: known[source] for source in stage.inputs}
    for source, path in paths.items():
        sameness.check_done(name, source, path)
    contents = {source: artifacts.read_record(path).content for source, path in paths.items()}
    refs = dict(contents)
    if stage.champion and (champion := sameness.champion(config, paths["compress"].name)):
        paths["champion"] = champion
        refs["champion"] = artifacts.ref(champion)
    if stage.sources:
        refs["sources"] = sameness.sources(config, interval)
    if stage.declarations:
        refs["declarations"] = sameness.declarations(config)
    if stage.base and (weights := sameness.weights(config)):
        refs["weights"] = weights
    own = interval if stage.interval else ""
    code, environment = code_version(stage.module), sameness.environment(stage.libraries)

    def fingerprint(**more: str) -> str:
        return artifacts.fingerprint(name, sameness.hashed(stage, config, name), refs | more, own, code, environment)

    ledger = sameness.ledger(config, interval, fingerprint) if stage.ledger else None
    path = artifacts.artifact_path(config.artifacts, name, ledger.fingerprint if ledger else fingerprint())
    return Plan(name, path, paths, contents, interval, ledger, refs.get("sources", ""))


def _build(todo: Plan, config: Config, run: str) -> Record:
    stage, path = STAGES[todo.stage], todo.path
    sameness.check_inputs(config.artifacts, {name: todo.inputs[name] for name in stage.inputs})
    if stage.resumable:
        path.mkdir(parents=True, exist_ok=True)
    else:
        artifacts.clear(path)
    log.info("%s: building %s", todo.stage, path)
    if "select" in todo.inputs:
        sameness.check_base(config, todo.inputs["select"])
    started, metrics = datetime.now(UTC), dict(_call(todo, config, "run"))
    return artifacts.commit(
        path,
        Record(
            stage=todo.stage,
            fingerprint=path.name,
            config=sameness.hashed(stage, config, todo.stage),
            inputs={name: artifacts.ref(source) for name, source in sorted(todo.inputs.items())},
            interval=todo.interval,
            code=code_version(stage.module),
            metrics=metrics,
            files={},
            environment=sameness.environment(stage.libraries),
            git_commit=git_commit(),
            started=started.isoformat(),
            finished=datetime.now(UTC).isoformat(),
            run=run,
            contents=todo.contents,
        ),
        stage.aside,
        stage.read,
    )


def _call(todo: Plan, config: Config, function: str) -> Any:
    """What a function of the stage's module returns: `run`, or `stands`, which takes the same."""
    stage = STAGES[todo.stage]
    extra: dict[str, Any] = {name: getattr(config, name) for name in stage.paths}
    extra |= {name: getattr(todo, name) for name in ("interval", "sources") if getattr(stage, name)}
    extra |= {"ledger": todo.ledger} if todo.ledger else {}
    extra |= {"interval": todo.interval} if stage.day else {}
    extra |= {"before": sameness.before(stage, todo.path)} if stage.before else {}
    sections = sameness.sections(stage, config, todo.stage)
    called: Callable[..., Any] = getattr(importlib.import_module(stage.module), function)
    return called(sections.pop(todo.stage), **sections, **todo.inputs, **extra, out=todo.path)
