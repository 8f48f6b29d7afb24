"""The same stages as a Prefect flow, for whoever has Prefect already: `llmops run STAGE` of the project's environment.

    pip install -r requirements.txt                # in an environment of its own
    python flow.py                                 # serves the flow to Prefect, every day for the day that has ended
    python flow.py run --interval 2026-01-31       # runs it once

LLMOPS names the command (default: `llmops` on the path), LLMOPS_CONFIG the configuration file.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
from datetime import UTC, date, datetime, timedelta

from prefect import flow, get_run_logger, runtime, task
from prefect.concurrency.sync import concurrency

STAGES = (
    "collect", "clean", "index", "annotate", "select", "features", "tune", "train", "compress", "evaluate", "govern",
    "release", "deploy", "push_to_hub",
)  # fmt: skip
MAY_PASS = 75  #: exit status of `llmops` for what may be gone at the next try: EX_TEMPFAIL of sysexits.h


class MayPass(RuntimeError):
    """The stage may well succeed at the next try."""


def may_pass(task, run, state) -> bool:
    """Whether a stage that failed is tried again."""
    return isinstance(state.result(raise_on_failure=False), MayPass)


@task(task_run_name="{name}", retries=3, retry_delay_seconds=[10, 60, 300], retry_condition_fn=may_pass)
def stage(name: str, interval: str, settings: dict[str, object], artifacts: dict[str, str]) -> str:
    """Run one stage, unless its artifact is there; returns the artifact's path."""
    command = [*shlex.split(os.environ.get("LLMOPS", "llmops")), "run", name, "--interval", interval, "--json"]
    command += ["--run-id", str(runtime.flow_run.name), "--attempt", str(runtime.task_run.run_count)]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    for source, path in artifacts.items():
        command += ["--input", f"{source}={path}"]
    with concurrency("llmops_compute", occupy=1):  # one at a time, once `prefect gcl create` has made the limit
        done = subprocess.run(command, capture_output=True, text=True)
    get_run_logger().info(done.stderr)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise (MayPass if done.returncode == MAY_PASS else RuntimeError)(f"{name}: {words}")
    return json.loads(done.stdout.splitlines()[-1])["artifact"]


@flow(name="llmops_pipeline")
def pipeline(
    interval: date | None = None,
    epochs: float | None = None,
    trials: int | None = None,
    stages: list[str] = list(STAGES),  # noqa: B006  a parameter's default, never changed
) -> dict[str, str]:
    """From raw data to a served model. `interval` is the day to read, by default the one before the run was due."""
    due = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    day = (interval or (due - timedelta(days=1)).date()).isoformat()
    asked = {"train.epochs": epochs, "tune.trials": trials}
    settings = {key: value for key, value in asked.items() if value is not None}
    artifacts: dict[str, str] = {}
    for name in stages:
        artifacts[name] = stage(name, day, settings, dict(artifacts))
    return artifacts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the flow, or run it once.")
    parser.add_argument("action", nargs="?", choices=["serve", "run"], default="serve")
    parser.add_argument("--interval", type=date.fromisoformat)
    options = parser.parse_args()
    if options.action == "run":
        pipeline(interval=options.interval)
    else:
        pipeline.serve(name="daily", cron="0 0 * * *")
