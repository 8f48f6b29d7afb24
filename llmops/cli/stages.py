"""The commands about stages and their artifacts: run, status, lineage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llmops import artifacts, config, pipeline
from llmops.cli.command import Add
from llmops.config import Config


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(run)
    sub.add_argument("stage", choices=[*pipeline.STAGES, "all"], metavar="STAGE|all", help=", ".join(pipeline.STAGES))
    sub.add_argument("--interval", default="", help="data interval as a date (default: today)")
    sub.add_argument("--run-id", default="", help="name of the run, kept in the records")
    add(status).add_argument("--interval", default="", help="data interval as a date (default: today)")
    add(lineage).add_argument("version", nargs="?", default="champion", help="version or alias")


def run(settings: Config, options: argparse.Namespace) -> None:
    """Run one stage, or all of them in order; what is done already is skipped."""
    interval = config.parse_interval(options.interval)
    names = list(pipeline.STAGES) if options.stage == "all" else [options.stage]
    done: dict[str, Path] = {}  # what the stages before made, so that a source that changes meanwhile changes nothing
    for name in names:
        path = done[name] = pipeline.run_stage(name, settings, interval, done, run=options.run_id)
        if options.json:
            print(json.dumps({"stage": name, "artifact": str(path), "metrics": artifacts.read_record(path).metrics}))
        else:
            print(f"{name:<10} {path}")


def status(settings: Config, options: argparse.Namespace) -> None:
    """Which artifacts the configuration and interval ask for, and which of them are there."""
    interval = config.parse_interval(options.interval)
    plans = [pipeline.plan(name, settings, interval) for name in pipeline.STAGES]
    if options.json:
        print(json.dumps([{"stage": p.stage, "artifact": str(p.path), "done": p.done} for p in plans]))
        return
    for plan in plans:
        print(f"{plan.stage:<10} {'done   ' if plan.done else 'missing'} {plan.path}")


def lineage(settings: Config, options: argparse.Namespace) -> None:
    """Answer → model version → run → dataset hash → sources → base-model revision."""
    from llmops.registry.registry import registry_of
    from llmops.release import lineage as trace

    version = registry_of(settings).get(options.version)
    print(json.dumps(trace.lineage(version), indent=1) if options.json else trace.lineage_text(version))
