"""The stages and `run_stage()`, the only way to run a stage. The command line, the DAG and the tests all use it.

A stage's name is its key in `STAGES`, its section of the configuration, its task_id and its artifact folder. A stage is
a function `run(config: Section, *, <inputs>: Path…, out: Path) -> Metrics` without knowledge of Airflow, fingerprints
or other stages.

    python -m llmops run all
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.events import stage_events
from llmops.frame import artifacts, intervals
from llmops.frame.artifacts import Record
from llmops.frame.code_version import code_version, git_commit
from llmops.frame.errors import LlmopsError
from llmops.frame.limit import time_limit
from llmops.frame.transient import as_transient
from llmops.pipeline import sameness
from llmops.pipeline.sameness import Plan, Stage

log = logging.getLogger("llmops.pipeline")

Metrics = Mapping[str, Any]  #: name → number, text or list, as JSON; stored in the record
MODELS = ("transformers", "tokenizers", "torch", "peft", "bitsandbytes")
ENGINES = (*MODELS, "openvino-genai")

STAGES: dict[str, Stage] = {
    "collect": Stage(
        "llmops.data.collect.stage",
        interval=True,
        sources=True,
        paths=("database",),
        aside=("quarantine.parquet", "pairs.parquet"),
    ),
    "clean": Stage(
        "llmops.data.clean.stage",
        ("collect",),
        compute=True,
        aside=("dropped/*",),
        sections={"annotate": sameness.useless_to_clean},
    ),
    "index": Stage(
        "llmops.data.index.stage",
        ("clean",),
        libraries=("tokenizers", "openvino"),
        compute=True,
        sections={"annotate": sameness.useless_to_index, "collect": sameness.unread_by_index},
        aside=("index.db", "vectors.npy"),  # vectors differ slightly between machines; `digest` stands for the passages
        read=("digest", "model"),
    ),
    "annotate": Stage(
        "llmops.data.annotate.stage", ("clean", "index"), grounded={}, ledger=True, aside=("dropped.parquet",)
    ),
    "select": Stage(
        "llmops.model.select.stage", ("annotate",), base=True, paths=("database",), libraries=ENGINES, compute=True
    ),
    "features": Stage(
        "llmops.data.features.stage",
        ("annotate", "select", "index"),
        read_once=("index", "collect"),  # else every new document or source of documents would train a new model
        trains=True,
        declarations=True,
        grounded={**sameness.GROUNDED, "grounding": sameness.unread_by_features},
        libraries=("transformers", "tokenizers"),
        aside=("dropped.parquet", "registry.db"),  # Feast's registry has timestamps
        read=("examples", "tokens", "truncated"),
    ),
    "tune": Stage(
        "llmops.model.tune.stage",
        ("features", "select"),
        trains=True,
        libraries=MODELS,
        compute=True,
        resumable=True,
        sections={"train": sameness.useless_to_a_search},
        aside=("trials.json",),
    ),
    "train": Stage(
        "llmops.model.train.stage",
        ("features", "select", "tune"),
        trains=True,
        libraries=MODELS,
        compute=True,
        resumable=True,
        aside=("loss.json",),
    ),
    "compress": Stage(
        "llmops.model.compress.stage",
        ("annotate", "features", "select", "train"),
        libraries=ENGINES,
        compute=True,
        resumable=True,
        aside=("compression.json",),
        read=("chosen",),
    ),
    "evaluate": Stage(
        "llmops.model.evaluate.stage",
        ("annotate", "select", "compress", "index"),
        champion=True,
        grounded=sameness.GROUNDED,
        libraries=ENGINES,
        compute=True,
    ),
    "govern": Stage(
        "llmops.release.govern.stage", ("annotate", "compress", "evaluate"), libraries=ENGINES, compute=True
    ),
    "release": Stage(
        "llmops.release.stage",
        ("train", "compress", "select", "annotate", "evaluate", "govern"),
        champion=True,
        paths=("events", "database"),
        aside=("features/*",),
    ),
    "deploy": Stage(
        "llmops.release.deploy.stage",
        ("release", "index"),
        paths=("home", "events", "registry", "database", "search_server"),
        outside=True,
        aside=("serving.log",),
    ),
    "push_to_hub": Stage(
        "llmops.release.push_to_hub.stage",
        ("release", "deploy"),
        paths=("events", "registry", "database"),
        outside=True,
    ),
}


def run_stage(
    name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None, run: str = "", attempt: int = 1
) -> Path:
    """Run one stage, unless its artifact is already finished, and return the artifact's path. A failure emits an event.

    Inputs are found by `plan` if not given.

    Raises:
        ConfigError: if the interval has not ended. Nothing was read or written.
        ArtifactError: if an input is not finished or damaged, or inputs do not belong together.
        LlmopsError: if an erasure was interrupted. It must be finished first.
        TransientError: if another try may succeed.
        TimeLimitError: if it exceeds its time limit.
    """
    intervals.check_ended(interval)
    started = datetime.now(UTC)
    try:
        with time_limit(f"The stage {name}", config.schedule.seconds(name)):
            return _run_stage(name, config, interval, inputs, run)
    except Exception as error:
        named = as_transient(error) or error
        stage_events.emit_failure(config.events, name, interval, run, attempt, started, named)
        if named is error:
            raise
        raise named from error


def _run_stage(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None, run: str) -> Path:
    if STAGES[name].sources:
        sameness.take_in(config, interval)
    todo = plan(name, config, interval, inputs)
    with artifacts.locked(config.artifacts, shared=True), artifacts.locked(todo.path):
        sameness.check_erased(config)
        for source in sameness.inputs(STAGES[name], config):
            sameness.check_done(name, source, todo.inputs[source])  # it may have been removed after the plan
            artifacts.touch(todo.inputs[source])
        if todo.done and (not STAGES[name].outside or _call(todo, config, "is_current")):
            log.info("%s: %s: %s", name, sameness.unchanged(artifacts.read_record(todo.path), interval), todo.path)
            artifacts.touch(todo.path)
            return todo.path
        record = _build(todo, config, run)
    log.info("%s: %s", name, record.metrics)
    stage_events.emit_success(config.events, record)
    return todo.path


def plan(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None) -> Plan:
    """Find the artifact path of a stage from its configuration and inputs, without running anything.

    Raises:
        SourceError: if a file source cannot be found.
        ArtifactError: if an input is not finished, so that its content is unknown, or the base model's weights are
            damaged.
    """
    return _plan(name, config, interval, dict(inputs or {}))


def plans(config: Config, interval: str) -> dict[str, Plan | LlmopsError | None]:
    """Return the plan of each stage, or the error; None if it depends on unfinished earlier stages."""
    known: dict[str, Path] = {}
    found: dict[str, Plan | LlmopsError | None] = {}
    for name, stage in STAGES.items():
        found[name] = None
        if known.keys() >= set(sameness.inputs(stage, config)):
            try:
                found[name] = todo = plan(name, config, interval, known)
            except LlmopsError as error:
                found[name] = error
            else:
                known |= {name: todo.path} if todo.done else {}
    return found


def _plan(name: str, config: Config, interval: str, known: dict[str, Path]) -> Plan:
    """Plan a stage and its inputs. Add their paths to `known`."""
    stage = STAGES[name]
    sources = sameness.inputs(stage, config)
    for source in sources:
        if source not in known:
            known[source] = _plan(source, config, interval, known).path
    paths = {source: known[source] for source in sources}
    for source, path in paths.items():
        sameness.check_done(name, source, path)
    contents = {source: artifacts.read_record(path).content for source, path in paths.items()}
    refs = {source: content for source, content in contents.items() if source not in stage.read_once}
    if stage.champion and (champion := sameness.champion(config, paths["compress"].name)):
        paths["champion"] = champion
        refs["champion"] = artifacts.ref(champion)
    if stage.sources:
        from llmops.data.collect.files import content

        refs["sources"] = content(config.collect, interval, config.database)
    if stage.declarations:
        from llmops.data.features.declarations import hash_repository

        refs["declarations"] = hash_repository(config.features)
    if stage.base and (weights := sameness.weights(config)):
        refs["weights"] = weights
    own = interval if stage.interval else ""
    code, environment = code_version(stage.module), sameness.environment(stage.libraries)

    def fingerprint(**more: str) -> str:
        return artifacts.fingerprint(name, sameness.hashed(stage, config, name), refs | more, own, code, environment)

    ledger = None
    if stage.ledger:
        from llmops.data.annotate.ledger import planned

        scope = config.database, config.release.name, config.annotate
        ledger = planned(*scope, interval, lambda read: fingerprint(ledger=read))
    path = artifacts.artifact_path(config.artifacts, name, ledger.fingerprint if ledger else fingerprint())
    return Plan(name, path, paths, contents, interval, ledger, refs.get("sources", ""))


def _build(todo: Plan, config: Config, run: str) -> Record:
    stage, path = STAGES[todo.stage], todo.path
    sameness.check_inputs(config.artifacts, {name: todo.inputs[name] for name in todo.contents})
    if stage.resumable:
        path.mkdir(parents=True, exist_ok=True)
    else:
        artifacts.clear(path)
    log.info("%s: building %s", todo.stage, path)
    if "select" in todo.inputs:
        sameness.check_base(config, todo.inputs["select"])
    started = datetime.now(UTC)
    idle = stage.trains and sameness.nothing_to_train(todo.inputs)
    metrics: Metrics = {artifacts.SKIPPED: "nothing to train on"} if idle else _call(todo, config, "run")
    return artifacts.commit(
        path,
        Record(
            stage=todo.stage,
            fingerprint=path.name,
            config=sameness.hashed(stage, config, todo.stage),
            inputs={name: artifacts.ref(source) for name, source in sorted(todo.inputs.items())},
            interval=todo.interval,
            code=code_version(stage.module),
            metrics=dict(metrics),
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
    stage = STAGES[todo.stage]
    called: Callable[..., Any] = getattr(importlib.import_module(stage.module), function)
    extra: dict[str, Any] = {name: getattr(config, name) for name in stage.paths}
    extra |= {"interval": todo.interval} if stage.interval else {}
    extra |= {"ledger": todo.ledger} if todo.ledger else {}
    extra |= {"sources": todo.sources} if stage.sources else {}
    sections = sameness.sections(stage, config, todo.stage)
    return called(sections.pop(todo.stage), **sections, **todo.inputs, **extra, out=todo.path)
