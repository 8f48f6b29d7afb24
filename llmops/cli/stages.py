"""The commands about stages and their artifacts: run, status, lineage."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmops.cli.command import Add
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, ConfigError, LlmopsError, RegistryError
from llmops.frame.intervals import check_ended, parse_interval
from llmops.pipeline import pipeline, stage_inputs
from llmops.pipeline.stage_inputs import StagePlan
from llmops.privacy.retention.disk import measure_usage


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(run)
    sub.add_argument("stage", choices=[*pipeline.STAGES, "all"], metavar="STAGE|all", help=", ".join(pipeline.STAGES))
    sub.add_argument("--interval", default="", help="day to read, which has ended, as 2026-01-31 (default: yesterday)")
    sub.add_argument("--run-id", default="", help="name of the run, stored with each artifact")
    sub.add_argument("--attempt", type=int, default=1, help="number of this try, for the event of a failure")
    sub.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="STAGE=ARTIFACT",
        help="artifact of an earlier stage, as it was printed (default: found by configuration and interval)",
    )
    sub = add(status)
    sub.add_argument("--interval", default="", help="day that the next run reads, as 2026-01-31 (default: yesterday)")
    sub.add_argument("--verify", action="store_true", help="read every artifact and name the damaged ones")
    add(lineage).add_argument("version", nargs="?", default="champion", help="version or alias")


def run(settings: Config, options: argparse.Namespace) -> None:
    """Run one stage, or all of them in order. Finished stages are skipped."""
    interval = parse_interval(options.interval)
    names = list(pipeline.STAGES) if options.stage == "all" else [options.stage]
    # Later stages read the artifacts given or made here, even if a source changes meanwhile.
    paths = _parse_inputs(options.input)
    try:
        for name in names:
            path = pipeline.run_stage(name, settings, interval, paths, run=options.run_id, attempt=options.attempt)
            paths[name] = path
            _print_artifact(name, path, interval, as_json=options.json)
    finally:  # the gate's reasons are wanted most if nothing could be served
        if options.stage == "all" and "release" in paths and not options.json:
            metrics = {name: artifacts.read_record(path).metrics for name, path in paths.items()}
            for line in ["", *_summarize(metrics, settings)]:
                print_line(line, to=sys.stderr)  # stdout has a line a stage, for scripts


def _print_artifact(name: str, path: Path, interval: str, *, as_json: bool) -> None:
    record = artifacts.read_record(path)
    if as_json:
        row = {"stage": name, "artifact": str(path), "interval": record.interval, "metrics": record.metrics}
        print_line(json.dumps(row))
    else:
        since = f"  {stage_inputs.describe_unchanged(record, interval)}" if record.interval != interval else ""
        print_line(f"{name:<10} {path}{since}")


def _summarize(metrics: Mapping[str, Mapping[str, Any]], settings: Config) -> Iterator[str]:
    """Yield the result of a whole run in a few lines: whether a model was trained, the gate's decision, an answer."""
    annotate, release, deploy = (metrics.get(stage, {}) for stage in ("annotate", "release", "deploy"))
    if "skipped" in metrics.get("train", {}):
        yield (
            f"Nothing was trained: the sources gave {annotate['test'] - annotate['made_up']} test items "
            f"(annotate.min_test_items asks for {settings.annotate.min_test_items}). "
            "The base model answers from your documents."
        )
    if "outcome" in release:
        yield f"{release['version']} {release['outcome']} against {release['opponent']}:"
        yield from (f"  {reason}" for reason in release["reasons"])
    if "instead" in release:
        yield f"{release['instead']} is served instead: the base model with your documents."
    if "answer" in deploy:
        yield f"{deploy['version']} was asked: {deploy['question']}"
        yield f"  {deploy.get('answer_from_documents', deploy['answer'])}"
        yield from (f"  source: {source}" for source in deploy.get("sources", ()))
        yield "`llmops serve` serves the champion; `llmops status` shows the artifacts."


def _parse_inputs(pairs: Sequence[str]) -> dict[str, Path]:
    inputs: dict[str, Path] = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if name not in pipeline.STAGES or not path:
            raise ConfigError(f"--input {pair!r}: write it as STAGE=ARTIFACT; stages are {', '.join(pipeline.STAGES)}.")
        inputs[name] = Path(path)
    return inputs


def status(settings: Config, options: argparse.Namespace) -> int:
    """Show the stages that the next run would build, and the existing artifacts. Exit with 1 if one is damaged."""
    interval = parse_interval(options.interval)
    check_ended(interval)
    plans = pipeline.plan_stages(settings, interval)
    problem = next((str(plan) for plan in plans.values() if isinstance(plan, LlmopsError)), "")
    found, damaged = _list_artifacts(settings.artifacts, whole=options.verify)
    if options.verify:
        damaged |= _find_damaged_versions(settings)
    there = [row for row in found if not row[1].removed]
    disk = measure_usage(settings)
    if options.json:
        todo = [
            {"stage": name, "artifact": str(plan.path), "done": plan.done}
            if isinstance(plan, StagePlan)
            else {"stage": name, "artifact": None, "done": False}
            for name, plan in plans.items()
        ]
        rows = [{"artifact": str(path)} | {key: getattr(r, key) for key in _SHOWN} for path, r, _ in found]
        upcoming = {"interval": interval, "stages": todo, "problem": problem}
        print_line(json.dumps({"next": upcoming, "artifacts": rows, "damaged": damaged, "disk": disk}))
        return 1 if damaged else 0
    outlook = f"cannot be planned: {problem}" if problem else _describe(plans, settings)
    print_line(f"The next run, of the interval {interval}, {outlook}.")
    if there:
        print_text("\nArtifacts, newest first:")
    elif not found:
        print_line("There is no artifact yet; `llmops run all` makes them.")
    for path, record, seconds in there:
        ended = record.finished[:19].replace("T", " ")
        print_line(f"{record.interval}  {record.stage:<10} {ended} {seconds:8.1f} s  {path}")
    if removed := sorted(record.removed for _, record, _ in found if record.removed):
        last = f"the last on {removed[-1][:10]}; --json lists them"
        erased = sum(bool(record.receipt) for _, record, _ in found)
        erasures = f" {erased} of them were removed by erasures." if erased else ""
        print_line(f"Artifacts whose data was removed: {len(removed)}, {last}.{erasures}")
    for name, why in damaged.items():
        print_line(f"damaged     {Path(name).parent.name:<10} {why}")
    print_text("\nOn the disk:")
    for name, size in [*disk["artifacts"].items(), *((n, s) for n, s in disk.items() if n != "artifacts")]:
        print_line(f"{name.replace('_', ' '):<12} {size / 1e6:14,.1f} MB")
    return 1 if damaged else 0


def _describe(plans: Mapping[str, StagePlan | LlmopsError | None], settings: Config) -> str:
    open_ = [  # None: not plannable before an earlier stage has run
        name for name, plan in plans.items() if plan is None and artifacts.list_finished(settings.artifacts / name)
    ]
    done = [name for name, plan in plans.items() if isinstance(plan, StagePlan) and plan.done]
    build = [name for name in plans if name not in (*open_, *done)]
    if not build:
        return "finds everything done"
    behind = f"; whether there is anything to do for {' '.join(open_)} is known after that" if open_ else ""
    return f"builds {' '.join(build)}{behind}"


def _list_artifacts(folder: Path, *, whole: bool) -> tuple[list[tuple[Path, Record, float]], dict[str, str]]:
    """Return all finished artifacts with record and duration in seconds, newest first, and path → error of others.

    Artifacts whose data was removed are included. With `whole`, changed artifacts count as errors.
    """
    order = {name: number for number, name in enumerate(pipeline.STAGES)}
    found: list[tuple[Path, Record, float]] = []
    damaged: dict[str, str] = {}
    for path in sorted(
        {
            file.parent
            for name in (artifacts.RECORD, artifacts.REMOVED_RECORD)
            for file in folder.glob(f"*/[!.]*/{name}")
        }
    ):
        try:
            record = artifacts.read_record(path)
            if whole and not record.removed:
                artifacts.check_files(path)
            took = datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)
            found.append((path, record, took.total_seconds()))
        except ArtifactError as error:
            damaged[str(path)] = str(error)
        except (ValueError, TypeError) as error:
            damaged[str(path)] = str(artifacts.make_damage_error(path, error))
    found.sort(key=lambda row: (row[1].finished, order.get(row[1].stage, 0)), reverse=True)
    return found, damaged


def _find_damaged_versions(settings: Config) -> dict[str, str]:
    """Return path → error of each version whose model is not the one that was made, as far as its record exists."""
    from llmops.release.registry.registry import registry_of
    from llmops.release.registry.version import read_version

    registry = registry_of(settings)
    damaged: dict[str, str] = {}
    for path in (registry.folder / "versions" / name for name in registry.names()):
        try:
            version = read_version(path)
            files = artifacts.read_record(settings.artifacts / "compress" / version.compress).files
        except (RegistryError, ArtifactError):
            continue
        made = {name: digest for name, digest in files.items() if name.startswith("servable/")}
        changed = [
            name
            for name, digest in made.items()
            if not (path / name).is_file() or artifacts.compute_sha256(path / name) != digest
        ]
        if changed and version.servable.is_dir():
            damaged[str(path)] = (
                f"{version.name} is damaged: {', '.join(changed)} in {path}. Serve another version "
                "(`llmops models rollback`, `llmops models promote`), or put the file back from a backup."
            )
    return damaged


def lineage(settings: Config, options: argparse.Namespace) -> None:
    """Show the chain from model version to run, dataset hash, sources and base-model revision."""
    from llmops.release.lineage import format_lineage, read_lineage
    from llmops.release.registry.registry import registry_of

    version, root = registry_of(settings).get(options.version), settings.artifacts
    print_text(json.dumps(read_lineage(version, root), indent=1) if options.json else format_lineage(version, root))


_SHOWN = ("stage", "interval", "started", "finished", "run", "removed", "receipt")  #: shown fields of a record
