"""A real Airflow, our DAGs, and stages that hang, fail, are killed and come twice: what must hold all the same.

One Airflow for all of these tests. Its stages are the small ones of `replaced/`; each test has days of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

import psutil
import pytest

from llmops.config import Config, load
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.frame.artifacts import read_record
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import END_STATES, Airflow, OrchestratorError
from llmops.pipeline.pool import POOL
from tests.conftest import find_free_port

REPLACED = Path(__file__).parent / "replaced"
DAG = "llmops_pipeline"


class Stand:
    """A running Airflow, and what the tests do with it."""

    def __init__(self, folder: Path) -> None:
        self.control = folder / "control"
        self.control.mkdir()
        (self.control / "log").touch()
        self.port = find_free_port()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "LLMOPS"))}
        settings = {
            "LLMOPS_HOME": str(folder / "home"),
            "LLMOPS_SCHEDULE__LATE_HOURS": "0.001",  # 3.6 s: every run is late
            "CONTROL": str(self.control),
            "PYTHONPATH": str(REPLACED),
        }
        self.config: Config = load(environ=settings)
        self.environ = stack.build_airflow_environment(self.config, self.port, {**kept, **settings}) | {
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPLACED),
            # what a scheduler that was killed left behind is looked after at once, not after five minutes
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW__CORE__PARALLELISM": "6",
        }
        with mock.patch.object(stack, "build_airflow_environment", return_value=self.environ):
            self.service = stack.start_airflow(self.config, self.port, {})
        self.api = Airflow(self.service.url, "admin", stack.ensure_passwords(self.config.home)[0]["admin"])
        for dag in (DAG, "llm_governance_review"):
            self.api.wait_for_dag(dag)
            self.api.unpause(dag)

    def trigger(self, interval: str, **behaviour: str) -> str:
        """Start a run of this day, whose stages do what `behaviour` says."""
        (self.control / f"{interval}.json").write_text(json.dumps(behaviour))
        return self.api.trigger(DAG, {"interval": interval})

    def ended(self, run: str) -> str:
        self.until(lambda: self.api.read_state(DAG, run) in END_STATES, f"the end of {run}")
        return self.api.read_state(DAG, run)

    def tries(self, run: str) -> dict[str, tuple[str, int]]:
        """Task → its state and tries."""
        return {task.name: (task.state, task.tries) for task in self.api.list_tasks(DAG, run)}

    def lines(self, *where: str) -> list[tuple[float, list[str]]]:
        """What stages noted, of a stage and interval if named: when, and what."""
        rows = [line.split() for line in (self.control / "log").read_text().splitlines()]
        return [(float(at), words) for at, *words in rows if words[: len(where)] == list(where)]

    def said(self, stage: str, interval: str) -> list[str]:
        return [words[2] for _, words in self.lines(stage, interval)]

    def events(self, dataset: str, run: str) -> list[dict[str, Any]]:
        drain_spool(self.config.events, self.config.monitoring)
        return [event for event in LocalStore(self.config.events).find(dataset) if event.get("llmops.run") == run]

    def raised(self, run: str, rule: str) -> list[dict[str, Any]]:
        """The alerts of a rule that a run has raised; they end when a later run succeeds."""
        alerts = self.events("llmops.alert", run)
        return [a for a in alerts if a["rule.name"] == rule and a["llmops.alert.state"] == "raised"]

    def until(self, happened: Callable[[], object], what: str) -> None:
        end = time.monotonic() + 600
        while not happened():
            assert time.monotonic() < end, f"{what} did not come; {self.lines()[-20:]}"
            time.sleep(0.3)  # Airflow has better things to do than to answer


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("airflow")
    stand = Stand(folder)
    with closing(stand.api._http):
        yield stand
    assert stack.stop(stand.config.home) == ["airflow"]


def test_what_may_be_gone_is_tried_again_and_what_stays_is_not(airflow: Stand) -> None:
    passing = airflow.trigger("2026-01-01", collect="fail once")
    staying = airflow.trigger("2026-01-02", collect="fail")
    assert airflow.ended(passing) == "success" and airflow.tries(passing)["collect"] == ("success", 2)
    assert airflow.ended(staying) == "failed" and airflow.tries(staying)["collect"] == ("failed", 1)

    [failure] = [e for e in airflow.events("llmops.pipeline", passing) if e["event.outcome"] == "failure"]
    assert (failure["event.action"], failure["llmops.attempt"], failure["llmops.transient"]) == ("collect", 1, True)
    assert failure["error.type"] == "SourceUnavailableError" and failure["llmops.interval"] == "2026-01-01"
    assert airflow.raised(passing, "run_failed") == []
    [alert] = airflow.raised(staying, "run_failed")
    assert "at collect, try 1: source faq yields nothing" in alert["message"]


def test_new_datasets_and_versions_are_assets_and_the_review_follows(airflow: Stand) -> None:
    run = airflow.trigger("2026-01-05")
    assert airflow.ended(run) == "success"
    again = airflow.trigger("2026-01-05")  # finds everything done: no news
    assert airflow.ended(again) == "success" and airflow.said("collect", "2026-01-05") == ["started", "built"]
    found = airflow.api._call("GET", "/api/v2/assets/events", params={"limit": 100})["asset_events"]
    assert [e for e in found if e["source_run_id"] == again] == []
    by_name = {e["name"]: e for e in found if e["source_run_id"] == run}
    assert set(by_name) == {"llmops://dataset", "llmops://model"}
    dataset, model = by_name["llmops://dataset"]["extra"], by_name["llmops://model"]["extra"]
    assert Path(dataset["path"], "record.json").is_file() and dataset["version"] == Path(dataset["path"]).name
    assert (model["version"], model["outcome"]) == ("v1", "promoted")
    reviews = by_name["llmops://model"]["created_dagruns"]
    assert [review["dag_id"] for review in reviews] == ["llm_governance_review"]
    review = reviews[0]["run_id"]
    airflow.until(lambda: airflow.api.read_state("llm_governance_review", review) == "success", "the review")


@pytest.mark.journey  # a browser alone would make it a test with services
def test_the_trigger_form_starts_a_run_with_its_values(airflow: Stand, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 1600})
    page.set_default_timeout(120_000)
    page.goto(f"{airflow.service.url}/auth/login")
    page.locator("input[name=username]").fill("developer")
    page.locator("input[name=password]").fill(stack.ensure_passwords(airflow.config.home)[0]["developer"])
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/auth/login" not in url)

    page.goto(f"{airflow.service.url}/dags/{DAG}")
    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    form.locator("[name=element_interval]").fill("2026-01-08")
    form.locator("[name=element_epochs]").fill("0.25")
    page.keyboard.press("Tab")
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url("**/runs/*")  # the form leads to the run's page

    run = unquote(urlsplit(page.url).path.split("/")[-1])
    assert airflow.ended(run) == "success"
    train = Path(airflow.api.read_result(DAG, run, "train"))
    assert read_record(train).config["epochs"] == 0.25 and airflow.said("train", "2026-01-08") == ["started", "built"]
    page.get_by_text("Success", exact=True).nth(5).wait_for()  # of the run and its five tasks
    page.close()


def test_a_stage_that_hangs_in_native_code_ends_with_its_processes_and_the_next_day_runs(airflow: Stand) -> None:
    days = ("2026-02-03", "2026-02-04")
    hung, following = airflow.trigger(days[0], collect="hang in native code"), airflow.trigger(days[1])
    assert airflow.ended(hung) == "failed" and airflow.ended(following) == "success"
    assert airflow.tries(hung)["collect"] == ("failed", 2) and airflow.tries(hung)["train"][0] == "upstream_failed"
    pids = [int(line) for line in (airflow.control / f"{days[0]}.pids").read_text().split()]
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert len(pids) == 2 and [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    airflow.until(lambda: airflow.raised(hung, "run_failed"), "the alert")
    failed = airflow.raised(hung, "run_failed")
    assert len(failed) == 1 and failed[0]["llmops.task"] == "collect"


def test_triggered_and_backfilled_runs_never_train_at_once(airflow: Stand) -> None:
    assert airflow.api._call("GET", f"/api/v2/pools/{POOL}")["slots"] == 1  # made by the scheduler that started
    days = ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04"]  # two by a backfill, of the day after each
    for day in days[:2]:
        (airflow.control / f"{day}.json").write_text(json.dumps({"train": "take 3"}))
    span = {"from_date": "2026-03-02T00:00:00Z", "to_date": "2026-03-03T00:00:00Z"}
    backfill = {"dag_id": DAG, **span, "max_active_runs": 2}

    def taken() -> bool:  # on SQLite Airflow refuses one while something else writes, and says so
        try:
            airflow.api._call("POST", "/api/v2/backfills", json=backfill)
        except OrchestratorError as error:
            if "locked" not in str(error):
                raise
            return False
        return True

    airflow.until(taken, "the backfill")
    triggered = [airflow.trigger(day, train="take 3") for day in days[2:]]
    assert [airflow.ended(run) for run in triggered] == ["success", "success"]
    airflow.until(lambda: all(airflow.said("release", day) == ["started", "built"] for day in days), "the releases")
    trained = sorted((at, *words[1:]) for at, words in airflow.lines("train") if words[1] in days)
    # one begins only when the one before has ended
    assert [word for *_, word in trained] == ["started", "built"] * len(days)
    assert all(begun[1] == ended[1] for begun, ended in zip(trained[::2], trained[1::2], strict=True))


def test_a_scheduler_that_is_killed_in_mid_run_goes_on_and_builds_nothing_twice(airflow: Stand) -> None:
    wider = {"pool": POOL, "slots": 2, "include_deferred": False}
    airflow.api._call("PATCH", f"/api/v2/pools/{POOL}", params={"update_mask": "slots"}, json=wider)
    run = airflow.trigger("2026-04-01", train="wait")
    airflow.until(lambda: airflow.said("train", "2026-04-01") == ["started"], "the training")
    parts = psutil.Process(airflow.service.pid).children()  # of `standalone`; their own children have other parents
    [scheduler] = [part for part in parts if "scheduler" in part.cmdline()]
    scheduler.send_signal(signal.SIGKILL)
    airflow.until(lambda: not scheduler.is_running() or scheduler.status() == psutil.STATUS_ZOMBIE, "its end")
    output = airflow.config.home / "logs" / "scheduler.log"
    command = [sys.executable, "-m", "airflow", "scheduler"]
    with open(output, "ab") as log:
        second = subprocess.Popen(command, env=airflow.environ, stdout=log, stderr=log, start_new_session=True)
    try:
        # Airflow starts the task anew before the one that the dead scheduler left has ended: it waits for that
        airflow.until(lambda: airflow.tries(run)["train"][1] == 2, "the second try")
        (airflow.control / "2026-04-01.go").touch()  # at once: Airflow will kill the first try
        assert airflow.ended(run) == "success", airflow.tries(run)
        finished = [
            e["event.action"] for e in airflow.events("llmops.pipeline", run) if e["event.outcome"] == "success"
        ]
        assert sorted(finished) == ["annotate", "collect", "release", "train"]
        assert airflow.api._call("GET", f"/api/v2/pools/{POOL}")["slots"] == 2  # what somebody has set stays
        airflow.until(lambda: airflow.raised(run, "run_late"), "the alert")
        [late] = airflow.raised(run, "run_late")
        assert late["rule.name"] == "run_late" and "has not ended 0.001 h" in late["message"]
    finally:
        os.killpg(second.pid, signal.SIGKILL)
        second.wait()
