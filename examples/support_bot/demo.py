"""The whole path on one machine: Airflow runs the pipeline, callers ask the serving app, the gate decides twice.

    make demo          # leaves Airflow and the serving app running; `make stop` ends them
    make pipeline      # one run of the pipeline, and stops what it started

Running it again reuses finished work. The environment may set LLMOPS_AIRFLOW_PORT (8080), LLMOPS_SERVING__PORT (8000)
and LLMOPS_HOME (.llmops).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import callers
import httpx
import pyarrow.parquet as pq
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmops.access.keys import keys_of
from llmops.access.roles import Role
from llmops.cli import main as llmops
from llmops.config import Config, load
from llmops.events.datasets import TEXT
from llmops.events.events import format_timestamp
from llmops.events.reader import make_reader
from llmops.frame import doctor
from llmops.frame.artifacts import write_json
from llmops.frame.errors import LlmopsError
from llmops.frame.intervals import parse_interval
from llmops.frame.machine import describe_gpus
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import Airflow, TaskInstance
from llmops.pipeline.pipeline import STAGES

CONFIG = Path(__file__).with_name("config.yaml")
DAG = "llmops_pipeline"
USER: Role = "developer"  # may trigger runs and look at everything, but not deploy by hand
CALLERS = ("web-chat", "shop-app")  #: owners of the keys with which the questions are asked
PRELOAD = "torch transformers bitsandbytes peft accelerate datasets hyperopt feast matplotlib.figure"  #: for tasks
COLOURS = {"success": "green", "running": "cyan", "failed": "red", "up_for_retry": "yellow", "upstream_failed": "red"}

console = Console()


class RunFailed(LlmopsError):
    """A run of the pipeline did not succeed."""


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description="From raw data to a served, watched model.")
    parser.add_argument("--pipeline-only", action="store_true", help="one run of the pipeline, nothing stays running")
    stop_after = only_pipeline = parser.parse_args().pipeline_only
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    before: list[str] = []
    config: Config | None = None
    try:
        config = load(CONFIG)
        before = list(stack.find_running(config.home))
        preflight(config)
        if only_pipeline:
            pipeline(config)
        else:
            demo(config)
        return 0
    except LlmopsError as error:
        console.print(Panel(Text(str(error)), title="stopped", border_style="red"))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on where this one stopped")
        stop_after = True
        return 130
    finally:
        if config and stop_after:
            stack.stop(config.home, [name for name in ("airflow", "serving") if name not in before])


def preflight(config: Config) -> None:
    """Name what is missing before any work starts.

    Raises:
        RunFailed: with each remedy.
    """
    checks = doctor.check_machine(config)
    if any(not check.ok for check in checks):
        raise RunFailed(doctor.format_checks([check for check in checks if not check.ok]).rstrip())


def pipeline(config: Config) -> None:
    """One run of the pipeline in Airflow."""
    with airflow(config, {}) as orchestrator:
        run = follow(orchestrator, {"interval": interval(config)}, "run")
        show_decisions({"run": decision(orchestrator, run)})


def demo(config: Config) -> None:
    """Two runs, callers in between, and where everything is."""
    if "airflow" not in stack.find_running(config.home):
        proof = {"LLMOPS_API_KEY": key(config, "user", "airflow"), "LLMOPS_DEPLOY__URL": serving_url(config)}
    else:
        proof = {}  # it has them since it was started
    with ThreadPoolExecutor() as both:  # neither needs the other to start
        serving = both.submit(stack.start_serving, config, {**os.environ, "LLMOPS_CONFIG": str(CONFIG)})
        connection = airflow(config, proof)
        serving.result()
    own = key(config, USER, "demo")
    day = interval(config)
    with connection as orchestrator:
        first = follow(orchestrator, {"interval": day}, "first run")
        ask(config, own, Path(orchestrator.read_result(DAG, first, "evaluate")))
        fill_pages(config)
        second = follow(orchestrator, {"interval": day, "epochs": 0.25}, "second run, with a quarter of the training")
        show_decisions({"first run": decision(orchestrator, first), "second run": decision(orchestrator, second)})
        show_schedule(orchestrator.list_scheduled())
    show_places(config, own)


def airflow(config: Config, environ: Mapping[str, str]) -> Airflow:
    """A connection to Airflow, started unless it runs, with no run left over from one that was stopped."""
    file = {"LLMOPS_CONFIG": str(CONFIG), "TOKENIZERS_PARALLELISM": "false"}
    file |= {"LLMOPS_PRELOAD": "" if describe_gpus() else PRELOAD}
    with console.status("starting Airflow"):
        service = stack.start_airflow(config, doctor.get_airflow_port(), {**os.environ, **file, **environ})
        orchestrator = Airflow(service.url, USER, stack.ensure_passwords(config.home)[0][USER])
        orchestrator.wait_for_dag(DAG)
    # What an Airflow that was stopped left unfinished would keep the next run waiting.
    for run in orchestrator.list_active(DAG, before=datetime.fromtimestamp(service.started, UTC)):
        orchestrator.fail(DAG, run)
    orchestrator.unpause(DAG)
    return orchestrator


def follow(orchestrator: Airflow, conf: Mapping[str, Any], title: str) -> str:
    """Trigger a run and show its tasks until it ends; returns its id.

    Raises:
        RunFailed: with the name of the task, the end of its log and what to do.
    """
    run = orchestrator.trigger(DAG, conf)
    started, said = time.monotonic(), dict[str, str]()
    try:
        with Live(console=console, refresh_per_second=4, transient=False) as live:
            for state, tasks in orchestrator.follow(DAG, run):
                ahead = [r for r in orchestrator.list_active(DAG) if r != run] if state == "queued" else []
                if console.is_terminal:
                    live.update(progress(title, state, tasks, ahead, time.monotonic() - started))
                for task in [] if console.is_terminal else tasks:
                    if said.get(task.name) != task.state and task.state in COLOURS:
                        console.print(f"{title}: {task.name} {task.state} {task.seconds:.0f} s")
                        said[task.name] = task.state
    except KeyboardInterrupt:
        orchestrator.fail(DAG, run)
        raise
    console.print(f"{title}: {state} after {time.monotonic() - started:.0f} s")
    if state == "failed":
        raise RunFailed(orchestrator.explain_failure(DAG, run, tasks))
    return run


def progress(title: str, state: str, tasks: list[TaskInstance], ahead: list[str], seconds: float) -> Group:
    """The tasks' states as a table."""
    by_name = {task.name: task for task in tasks}
    table = Table(title=f"{DAG}, {title}: {state}, {seconds:.0f} s", title_justify="left")
    for column in ("stage", "state", "seconds", "try"):
        table.add_column(column, justify="left" if column in ("stage", "state") else "right", min_width=8)
    for name in STAGES:
        task = by_name.get(name, TaskInstance(name, "none", 0, 0.0))
        ran = task.seconds > 0
        colour = COLOURS.get(task.state, "dim")
        table.add_row(
            name, Text("–" if task.state == "none" else task.state, colour),
            f"{task.seconds:.0f}" if ran else "", str(task.tries) if ran else "",
        )  # fmt: skip
    waiting = [Text(f"waits for {', '.join(ahead)}, which runs first", "yellow")] if ahead else []
    return Group(table, *waiting)


def ask(config: Config, api_key: str, evaluate: Path) -> None:
    """Ask the served model twice, and show its answers.

    The first question of the frozen test has a context, and stands beside the untuned model's answer. The other one
    has none: the app looks it up in the documents and names them.
    """

    def generate(question: str, context: str = "") -> dict[str, Any]:
        body = {"prompt": question, "context": context, "max_new_tokens": config.evaluate.max_new_tokens}
        with httpx.Client(base_url=serving_url(config), timeout=120) as client:
            return callers.post(client, "/generate", api_key, body)

    rows = pq.read_table(evaluate / "answers.parquet").to_pylist()
    base = min((row for row in rows if row["model"] == "base" and row["context"]), key=lambda row: str(row["id"]))
    answer = generate(base["question"], base["context"])
    table = answer_table("one question of the frozen test, over HTTP")
    table.add_row("question", Text(base["question"]))
    table.add_row("context", Text(base["context"]))
    table.add_row(f"served ({answer['model']} {answer['model_version']})", Text(answer["response"], "green"))
    table.add_row("untuned model", Text(base["answer"], "yellow"))
    table.add_row("reference", Text(base["reference"]))
    console.print(table)

    answer = generate(config.deploy.question)
    table = answer_table("one question that the app looks up in the documents")
    table.add_row("question", Text(config.deploy.question))
    table.add_row(f"served ({answer['model']} {answer['model_version']})", Text(answer["response"], "green"))
    for n, source in enumerate(answer.get("sources", []), 1):
        table.add_row(f"source {n}", Text(f"{source['title']} · {source['location']}, {source['position']}"))
    console.print(table)


def answer_table(title: str) -> Table:
    """An empty table with a column of names and one of texts."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def fill_pages(config: Config) -> None:
    """Let the callers ask, once in a home, and compare what they asked with the training data."""
    kept = config.home / "demo.json"
    known = json.loads(kept.read_text(encoding="utf-8"))
    if known.get("asked"):
        console.print(f"The callers have asked at {known['asked']}; what came of it is on the pages.")
        return
    began = datetime.now(UTC)
    keys = [key(config, "user", owner) for owner in CALLERS]
    with console.status("callers ask"), httpx.Client(base_url=serving_url(config), timeout=120) as client:
        said = callers.ask_questions(client, keys)
        seconds = (datetime.now(UTC) - began).total_seconds()
        noted(config, began, said.answers)
    console.print(
        f"{said.answers} questions of {len(keys)} callers were answered in {seconds:.0f} s. They found {said.good} "
        f"answers good and {said.bad} bad, and corrected {said.corrected}; the corrections wait for a review."
    )
    # The day is not over, but nobody is made to wait for midnight, when `llm_monitoring` would do the same.
    command = ["drift", "--config", str(CONFIG), "--until", (began + timedelta(days=1)).date().isoformat()]
    console.print(f"[bold]llmops {' '.join(command)}[/bold]", soft_wrap=True, highlight=False)
    llmops(command)
    write_json(kept, {**known, "asked": format_timestamp(began)})


def noted(config: Config, since: datetime, count: int, limit_s: float = 60) -> None:
    """Wait until the features of so many answers can be read: they are made off the path of the requests."""
    reader, end = make_reader(config), time.monotonic() + limit_s
    while len(reader.select(TEXT, ["@timestamp"], format_timestamp(since))) < count and time.monotonic() < end:
        time.sleep(0.5)


def decision(orchestrator: Airflow, run: str) -> dict[str, Any]:
    """What the gate decided in a run."""
    file = Path(orchestrator.read_result(DAG, run, "release")) / "decision.json"
    decided: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return decided


def show_decisions(decisions: Mapping[str, Mapping[str, Any]]) -> None:
    """The gate's decisions with their numbers, a table each."""
    for name, decided in decisions.items():
        title = f"gate, {name}: {decided['version']} {decided['outcome']} against {decided['opponent']}"
        table = Table(title=f"{title}, {decided['items']} items of the frozen test", title_justify="left", box=SIMPLE)
        table.add_column("metric", no_wrap=True)
        for column in ("candidate", "opponent", "difference", "low", "high", "low must exceed"):
            table.add_column(column, justify="right")
        for c in decided["comparisons"]:
            numbers = (c["candidate"], c["opponent"])
            differences = (c["difference"], c["low"], c["high"], c["bound"])
            table.add_row(
                f"{c['metric']} ({c['role']})",
                *(f"{n:.3f}" for n in numbers),
                *(f"{d:+.3f}" for d in differences),
                style="green" if c["passed"] else "red",
            )
        for f in decided["floors"]:
            label = f"{f['metric']} (floor {f['floor']:g})"
            table.add_row(label, f"{f['value']:.3f}", style="green" if f["passed"] else "red")
        console.print(table)
        for reason in decided["reasons"]:
            console.print(reason, highlight=False)


def show_places(config: Config, api_key: str) -> None:
    """What runs where, and how to get in."""
    url = serving_url(config)
    table = Table(title="running now; `make stop` ends it", show_header=False, title_justify="left")
    for what, where in (
        ("Airflow", stack.find_running(config.home)["airflow"].url),
        ("playground", f"{url}/"),
        ("dashboard", f"{url}/dashboard"),
        ("drift", f"{url}/drift"),
        ("review", f"{url}/admin/review, with a key of `llmops keys create --role admin`"),
        ("API docs", f"{url}/docs"),
    ):
        table.add_row(what, where)
    file, seen = config.home / "airflow" / "passwords.json", config.home / "airflow" / ".shown"
    if seen.exists():
        table.add_row("Airflow users", f"passwords shown at the first run; they are in {file}")
    else:
        for user, password in stack.ensure_passwords(config.home)[0].items():
            table.add_row(f"Airflow user {user}", Text(password))
        seen.touch()
    console.print(table)
    console.print(f"API key for playground, dashboard and API, role {USER}, shown this once:")
    console.print(api_key, soft_wrap=True, highlight=False)


def show_schedule(scheduled: Mapping[str, bool]) -> None:
    """Which DAGs run by themselves from now on, and which wait to be told."""
    running = [dag for dag, paused in scheduled.items() if not paused]
    console.print(f"By themselves, as long as Airflow runs, run {', '.join(running) or 'none of the DAGs'}.")
    if paused := [dag for dag, paused in scheduled.items() if paused]:
        console.print(f"Paused are {', '.join(paused)}; `llmops airflow dags unpause NAME` lets one run.")


def interval(config: Config) -> str:
    """The data interval of the demo: the day of its first run, so that running it again finds what is done."""
    file = config.home / "demo.json"
    if not file.is_file():
        write_json(file, {"interval": parse_interval()})
    return str(json.loads(file.read_text(encoding="utf-8"))["interval"])


def key(config: Config, role: Role, owner: str) -> str:
    """A new API key in the place of the owner's earlier ones."""
    store = keys_of(config)
    for old in store.list():
        if old.owner == owner and not old.revoked:
            store.revoke(old.prefix)
    return store.create(role, owner)[0]


def serving_url(config: Config) -> str:
    """Where the serving app is."""
    return f"http://{stack.HOST}:{config.serving.port}"


if __name__ == "__main__":
    sys.exit(main())
