"""The commands about Airflow: start and follow a run, and Airflow's own command line with this home's database."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from llmops.cli.command import Add
from llmops.cli.output import print_line
from llmops.config import Config, parse_value
from llmops.config.run_parameters import RunParameters, refuse_unknown
from llmops.frame import doctor
from llmops.frame.errors import ConfigError
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import Airflow, OrchestratorError

USER, PASSWORD = "LLMOPS_AIRFLOW_USER", "LLMOPS_AIRFLOW_PASSWORD"  #: environment variables for an Airflow elsewhere


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(trigger, overrides=False)
    sub.add_argument("dag", nargs="?", default="llmops_pipeline", metavar="DAG", help="default: llmops_pipeline")
    names = ", ".join(name for name in RunParameters.model_fields if name != "interval")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        dest="parameters",
        metavar="NAME=VALUE",
        help=f"a parameter of the run; llmops_pipeline has {names}",
    )
    sub.add_argument("--interval", help="day to read, as 2026-01-31 (default: yesterday)")
    sub.add_argument("--wait", action="store_true", help="follow the run's tasks until it has ended")
    sub.add_argument("--url", help=f"an Airflow elsewhere; sign in with {USER} and {PASSWORD}")
    sub = add(airflow, overrides=False)
    sub.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="arguments of `airflow`")


def trigger(settings: Config, options: argparse.Namespace) -> int | None:
    """Start a run of a DAG in Airflow, with parameters from its list only."""
    parameters = dict(map(_parse_pair, options.parameters))
    parameters |= {"interval": options.interval} if options.interval else {}
    with _connect(settings, options.url) as orchestrator:
        refuse_unknown(parameters, orchestrator.list_parameters(options.dag))
        run = orchestrator.trigger(options.dag, parameters)
        print_line(f"{options.dag}: run {run} is queued", to=sys.stderr if options.json else sys.stdout)
        state = "queued"
        try:
            if options.wait:
                state = _follow(orchestrator, options.dag, run, quiet=options.json)
        except KeyboardInterrupt:
            print_line(f"llmops: no longer followed; the run {run} goes on in Airflow.", to=sys.stderr)
            return 130
    if options.json:
        print_line(json.dumps({"dag": options.dag, "run": run, "state": state}))
    return None


def airflow(settings: Config, options: argparse.Namespace) -> NoReturn:
    """Replace this process by Airflow's own command line: this home's database, this project's DAGs and settings."""
    stack.ensure_passwords(settings.home)  # otherwise `standalone` would create others
    running = stack.find_running(settings.home).get("airflow")
    port = running.port if running else doctor.get_airflow_port()
    if options.arguments[:1] == ["standalone"] and not doctor.is_free(port):
        raise ConfigError(f"Port {port} is in use; choose another: {doctor.AIRFLOW_PORT}={port + 1}.")
    environ = stack.build_airflow_environment(settings, port, os.environ)
    if file := options.config or environ.get("LLMOPS_CONFIG"):
        environ["LLMOPS_CONFIG"] = str(Path(file).expanduser().absolute())
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *options.arguments], environ)


def _follow(orchestrator: Airflow, dag: str, run: str, quiet: bool) -> str:
    shown: dict[str, str] = {}
    for state, tasks in orchestrator.follow(dag, run):
        for task in tasks:
            if task.state != shown.get(task.name, "none") and not quiet:
                print_line(f"{task.name:<14} {task.state:<16} {task.seconds:6.0f} s")
            shown[task.name] = task.state
        if state == "failed":
            raise OrchestratorError(f"The run {run} of {dag} failed. {orchestrator.explain_failure(dag, run, tasks)}")
    return "success"


def _connect(settings: Config, url: str | None) -> Airflow:
    """Sign in at `url`, or as developer at the Airflow that was started from this home."""
    running = stack.find_running(settings.home).get("airflow")
    # An Airflow that is not running here may run in another container, at the default port.
    where = url or (running.url if running else f"http://{stack.HOST}:{doctor.get_airflow_port()}")
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if user and password:
        return Airflow(where, user, password)
    if url:
        raise OrchestratorError(f"To sign in at {url}, set {USER} and {PASSWORD}.")
    if running is None and not stack.has_passwords(settings.home):
        raise OrchestratorError(
            f"No Airflow was started from {settings.home}; `make demo` starts one, --url names one elsewhere."
        )
    passwords, _ = stack.ensure_passwords(settings.home)
    return Airflow(where, "developer", passwords["developer"])


def _parse_pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r}: write it as NAME=VALUE, e.g. epochs=2.")
    if name == "interval":
        raise ConfigError(f"--set {text!r}: the day of a run is given by --interval, as in `llmops run`.")
    parsed = parse_value(value)
    try:
        json.dumps(parsed, allow_nan=False)
    except ValueError:
        raise ConfigError(f"--set {text!r}: it must be a finite number.") from None
    return name, parsed
