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
from llmops.frame.code_version import compute_code_version, read_git_commit
from llmops.frame.errors import LlmopsError
from llmops.frame.time_limit import limit_time
from llmops.frame.transient import convert_to_transient
from llmops.pipeline import stage_inputs
from llmops.pipeline.stage_inputs import Stage, StagePlan

log = logging.getLogger("llmops.pipeline")

Metrics = Mapping[str, Any]  #: name → number, text or list, as JSON; stored in the record
MODEL_LIBRARIES = ("transformers", "tokenizers", "torch", "peft", "bitsandbytes")
ALL_LIBRARIES = (*MODEL_LIBRARIES, "openvino-genai")

STAGES: dict[str, Stage] = {
    "collect": Stage(
        "llmops.data.collect.stage",
        interval=True,
        sources=True,
        paths=("database",),
        unread_files=("quarantine.parquet", "pairs.parquet"),
    ),
    "clean": Stage(
        "llmops.data.clean.stage",
        ("collect",),
        heavy=True,
        unread_files=("dropped/*",),
        sections={"annotate": stage_inputs.list_unused_by_clean},
    ),
    "index": Stage(
        "llmops.data.index.stage",
        ("clean",),
        libraries=("tokenizers", "openvino"),
        heavy=True,
        sections={
            "annotate": stage_inputs.list_annotate_unused_by_index,
            "collect": stage_inputs.list_collect_unused_by_index,
        },
        unread_files=("index.db", "vectors.npy"),  # vectors differ between machines; `digest` stands for the passages
        read_metrics=("digest", "model"),
    ),
    "annotate": Stage(
        "llmops.data.annotate.stage", ("clean", "index"), grounded={}, ledger=True, unread_files=("dropped.parquet",)
    ),
    "select": Stage(
        "llmops.model.select.stage", ("annotate",), base=True, paths=("database",), libraries=ALL_LIBRARIES, heavy=True
    ),
    "features": Stage(
        "llmops.data.features.stage",
        ("annotate", "select", "index"),
        read_once=("index", "collect"),  # else every new document or source of documents would train a new model
        needs_examples=True,
        declarations=True,
        grounded={**stage_inputs.GROUNDED_SECTIONS, "grounding": stage_inputs.list_unused_by_features},
        libraries=("transformers", "tokenizers"),
        unread_files=("dropped.parquet", "registry.db"),  # Feast's registry has timestamps
        read_metrics=("examples", "tokens", "truncated"),
    ),
    "tune": Stage(
        "llmops.model.tune.stage",
        ("features", "select"),
        needs_examples=True,
        libraries=MODEL_LIBRARIES,
        heavy=True,
        resumable=True,
        sections={"train": stage_inputs.list_unused_by_tune},
        unread_files=("trials.json", "trained/*"),  # train has the same result with and without the latter
    ),
    "train": Stage(
        "llmops.model.train.stage",
        ("features", "select", "tune"),
        needs_examples=True,
        libraries=MODEL_LIBRARIES,
        heavy=True,
        resumable=True,
        unread_files=("loss.json",),
    ),
    "compress": Stage(
        "llmops.model.compress.stage",
        ("annotate", "features", "select", "train"),
        libraries=ALL_LIBRARIES,
        heavy=True,
        resumable=True,
        unread_files=("compression.json",),
        read_metrics=("chosen",),
    ),
    "evaluate": Stage(
        "llmops.model.evaluate.stage",
        ("annotate", "select", "compress", "index"),
        champion=True,
        grounded=stage_inputs.GROUNDED_SECTIONS,
        libraries=ALL_LIBRARIES,
        heavy=True,
    ),
    "govern": Stage(
        "llmops.release.govern.stage", ("annotate", "compress", "evaluate"), libraries=ALL_LIBRARIES, heavy=True
    ),
    "release": Stage(
        "llmops.release.stage",
        ("train", "compress", "select", "annotate", "evaluate", "govern"),
        champion=True,
        paths=("events", "database"),
        unread_files=("features/*",),
    ),
    "deploy": Stage(
        "llmops.release.deploy.stage",
        ("release", "index"),
        paths=("home", "events", "registry", "database", "search_server"),
        external=True,
        unread_files=("serving.log",),
    ),
    "push_to_hub": Stage(
        "llmops.release.push_to_hub.stage",
        ("release", "deploy"),
        paths=("events", "registry", "database"),
        external=True,
    ),
}


def run_stage(
    name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None, run: str = "", attempt: int = 1
) -> Path:
    """Run one stage, unless its artifact is already finished, and return the artifact's path. A failure emits an event.

    Inputs are found by `plan_stage` if not given.

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
        with limit_time(f"The stage {name}", config.schedule.get_limit_s(name)):
            return _run_stage(name, config, interval, inputs, run)
    except Exception as error:
        reported = convert_to_transient(error) or error
        stage_events.emit_failure(config.events, name, interval, run, attempt, started, reported)
        if reported is error:
            raise
        raise reported from error


def _run_stage(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None, run: str) -> Path:
    if STAGES[name].sources:
        stage_inputs.store_feedback(config, interval)
    plan = plan_stage(name, config, interval, inputs)
    with artifacts.hold_lock(config.artifacts, shared=True), artifacts.hold_lock(plan.path):
        stage_inputs.check_no_erasure(config)
        for source in stage_inputs.list_inputs(STAGES[name], config):
            stage_inputs.check_done(name, source, plan.inputs[source])  # it may have been removed after the plan
            artifacts.touch(plan.inputs[source])
        if plan.done and (not STAGES[name].external or _call_stage(plan, config, "is_current")):
            record = artifacts.read_record(plan.path)
            log.info("%s: %s: %s", name, stage_inputs.describe_unchanged(record, interval), plan.path)
            artifacts.touch(plan.path)
            return plan.path
        record = _build_artifact(plan, config, run)
    log.info("%s: %s", name, record.metrics)
    stage_events.emit_success(config.events, record)
    return plan.path


def plan_stage(name: str, config: Config, interval: str, inputs: Mapping[str, Path] | None = None) -> StagePlan:
    """Find the artifact path of a stage from its configuration and inputs, without running anything.

    Raises:
        SourceError: if a file source cannot be found.
        ArtifactError: if an input is not finished, so that its content is unknown, or the base model's weights are
            damaged.
    """
    return _plan_with_inputs(name, config, interval, dict(inputs or {}))


def plan_stages(config: Config, interval: str) -> dict[str, StagePlan | LlmopsError | None]:
    """Return the plan of each stage, or the error; None if it depends on unfinished earlier stages."""
    known: dict[str, Path] = {}
    plans: dict[str, StagePlan | LlmopsError | None] = {}
    for name, stage in STAGES.items():
        plans[name] = None
        if known.keys() >= set(stage_inputs.list_inputs(stage, config)):
            try:
                plans[name] = plan = plan_stage(name, config, interval, known)
            except LlmopsError as error:
                plans[name] = error
            else:
                known |= {name: plan.path} if plan.done else {}
    return plans


def _plan_with_inputs(name: str, config: Config, interval: str, known: dict[str, Path]) -> StagePlan:
    """Plan a stage and its inputs. Add their paths to `known`."""
    stage = STAGES[name]
    sources = stage_inputs.list_inputs(stage, config)
    for source in sources:
        if source not in known:
            known[source] = _plan_with_inputs(source, config, interval, known).path
    paths = {source: known[source] for source in sources}
    for source, path in paths.items():
        stage_inputs.check_done(name, source, path)
    contents = {source: artifacts.read_record(path).content for source, path in paths.items()}
    refs = {source: content for source, content in contents.items() if source not in stage.read_once}
    if stage.champion and (champion := stage_inputs.find_opponent(config, paths["compress"].name)):
        paths["champion"] = champion
        refs["champion"] = artifacts.get_ref(champion)
    if stage.sources:
        from llmops.data.collect.files import hash_content

        refs["sources"] = hash_content(config.collect, interval, config.database)
    if stage.declarations:
        from llmops.data.features.declarations import hash_repository

        refs["declarations"] = hash_repository(config.features)
    if stage.base and (weights := stage_inputs.hash_weights(config)):
        refs["weights"] = weights
    day, values = interval if stage.interval else "", stage_inputs.get_hashed_values(stage, config, name)
    code, environment = compute_code_version(stage.module), stage_inputs.describe_environment(stage.libraries)

    def hash_inputs(**more: str) -> str:
        return artifacts.compute_fingerprint(name, values, refs | more, day, code, environment)

    ledger = None
    if stage.ledger:
        from llmops.data.annotate.split_ledger import open_split_ledger

        scope = config.database, config.release.name, config.annotate
        ledger = open_split_ledger(*scope, interval, lambda earlier: hash_inputs(ledger=earlier))
    path = artifacts.get_artifact_path(config.artifacts, name, ledger.fingerprint if ledger else hash_inputs())
    return StagePlan(name, path, paths, contents, interval, ledger, refs.get("sources", ""))


def _build_artifact(plan: StagePlan, config: Config, run: str) -> Record:
    stage, path = STAGES[plan.stage], plan.path
    stage_inputs.check_inputs(config.artifacts, {name: plan.inputs[name] for name in plan.contents})
    if stage.resumable:
        path.mkdir(parents=True, exist_ok=True)
    else:
        artifacts.clear(path)
    log.info("%s: building %s", plan.stage, path)
    if "select" in plan.inputs:
        stage_inputs.check_base(config, plan.inputs["select"])
    started = datetime.now(UTC)
    idle = stage.needs_examples and stage_inputs.has_nothing_to_train(plan.inputs)
    metrics: Metrics = {artifacts.SKIPPED: "nothing to train on"} if idle else _call_stage(plan, config, "run")
    return artifacts.commit(
        path,
        Record(
            stage=plan.stage,
            fingerprint=path.name,
            config=stage_inputs.get_hashed_values(stage, config, plan.stage),
            inputs={name: artifacts.get_ref(source) for name, source in sorted(plan.inputs.items())},
            interval=plan.interval,
            code=compute_code_version(stage.module),
            metrics=dict(metrics),
            files={},
            environment=stage_inputs.describe_environment(stage.libraries),
            git_commit=read_git_commit(),
            started=started.isoformat(),
            finished=datetime.now(UTC).isoformat(),
            run=run,
            contents=plan.contents,
        ),
        stage.unread_files,
        stage.read_metrics,
    )


def _call_stage(plan: StagePlan, config: Config, function: str) -> Any:
    stage = STAGES[plan.stage]
    call: Callable[..., Any] = getattr(importlib.import_module(stage.module), function)
    extra: dict[str, Any] = {name: getattr(config, name) for name in stage.paths}
    extra |= {"interval": plan.interval} if stage.interval else {}
    extra |= {"ledger": plan.ledger} if plan.ledger else {}
    extra |= {"sources": plan.sources} if stage.sources else {}
    sections = stage_inputs.get_sections(stage, config, plan.stage)
    return call(sections.pop(plan.stage), **sections, **plan.inputs, **extra, out=plan.path)
