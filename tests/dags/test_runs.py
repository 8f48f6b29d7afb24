"""Runs of the DAGs by `dag.test()`, without a scheduler: the tasks call the stages and the other work as promised.

Airflow reads its home when it is imported, so everything here happens in processes of their own.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops.config import Config, Monitoring
from llmops.config.alerts import Rule
from llmops.events.events import emit
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.monitoring.alerts import lifecycle
from llmops.monitoring.alerts.breach import Breach

from .conftest import ROOT, python

pytestmark = pytest.mark.journey

RUN = """
import json, sys, types
from datetime import datetime
from pathlib import Path
from llmops.pipeline import pipeline
from llmops.frame.errors import SourceError

calls = []

def collect(config, *, interval, out):
    calls.append(["collect", interval])
    if interval == "2026-02-28":
        raise SourceError("source faq yields nothing")
    (out / "documents").write_text(interval)
    return {"documents": 1}

def train(config, *, collect, out):
    calls.append(["train", (collect / "documents").read_text(), config.epochs, config.seed])
    return {"steps": 1}

for function in (collect, train):
    module = types.ModuleType("stand_in_" + function.__name__)
    module.run = function
    sys.modules[module.__name__] = module
pipeline.STAGES = {
    "collect": pipeline.Stage("stand_in_collect", interval=True),
    "train": pipeline.Stage("stand_in_train", ("collect",)),
}
from airflow.dag_processing.dagbag import DagBag
states = []
for conf in json.loads(sys.argv[2]):
    # a DAG keeps what a run was given
    dag = DagBag(dag_folder=sys.argv[1] + "/llmops_pipeline.py").dags["llmops_pipeline"]
    logical = conf.pop("logical date", None)
    run = dag.test(run_conf=conf, logical_date=logical and datetime.fromisoformat(logical))
    states.append([run.state, {t.task_id: [t.state, t.try_number] for t in run.get_task_instances()}])
print("RESULT" + json.dumps({"calls": calls, "states": states}))
"""


@pytest.fixture(scope="module")
def environ(airflow_home: dict[str, str]) -> dict[str, str]:
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=airflow_home, capture_output=True, check=True)
    return airflow_home


def test_a_run_calls_the_stages_with_overrides_interval_and_paths(environ: dict[str, str]) -> None:
    # `dag.test()` of Airflow 3.3.2 stumbles over any deadline after the run (apache/airflow issue 73428)
    environ = {**environ, "LLMOPS_SCHEDULE__LATE_HOURS": "0"}
    confs: list[dict[str, Any]] = [
        {"interval": "2026-01-31", "epochs": 9},
        {"interval": "2026-01-31", "epochs": 9, "seed": None},
        {"interval": "2026-02-28"},
        {"logical date": "2026-03-31T00:00:00+00:00"},
        {"interval": None},
        {},
    ]
    result = python(RUN, environ, str(ROOT / "dags"), json.dumps(confs))
    done, again, empty, dated, form, by_hand = result["states"]
    assert done[0] == again[0] == dated[0] == form[0] == by_hand[0] == "success"
    # the second run finds both artifacts done; the third is not tried again
    yesterday = result["calls"][-1][1]
    assert result["calls"] == [
        ["collect", "2026-01-31"], ["train", "2026-01-31", 9.0, 0], ["collect", "2026-02-28"],
        ["collect", "2026-03-30"], ["train", "2026-03-30", 0.0, 0],
        ["collect", yesterday], ["train", yesterday, 0.0, 0],
    ]  # fmt: skip
    days = {(datetime.now(UTC) - timedelta(days=1, minutes=m)).date().isoformat() for m in (0, 30)}
    assert yesterday in days  # by hand, without an interval; the form says null
    assert empty[0] == "failed" and empty[1]["train"][0] == "upstream_failed"
    assert [tasks["gc"] for _, tasks in result["states"]] == [["success", 1]] * 6  # whatever the run came to


BATCH = """
import json, sys, types
from dataclasses import make_dataclass
from llmops.frame.errors import SourceError

calls = []

def run_batch(settings, source, output, **asked):
    calls.append([str(source), str(output), asked])
    if str(source) == "bad":
        raise SourceError("bad is no file")
    return make_dataclass("Summary", ["rows"])(3)

module = types.ModuleType("llmops.release.batch.batch")
module.run_batch = run_batch
sys.modules["llmops.release.batch.batch"] = module
from airflow.dag_processing.dagbag import DagBag
states = []
for source, asked in (("good", {}), ("bad", {}), ("good", {"url": "http://evil.test"})):
    dag = DagBag(dag_folder=sys.argv[1] + "/llmops_batch.py").dags["llmops_batch"]
    run = dag.test(run_conf={"input": source, "output": "out", "version": "v2", **asked})
    states.append([run.state, [t.try_number for t in run.get_task_instances()],
                   [t.xcom_pull(task_ids="answer") for t in run.get_task_instances()]])
print("RESULT" + json.dumps({"calls": calls, "states": states}))
"""


def test_a_batch_hands_its_parameters_on_and_is_not_tried_again_on_a_bad_file(environ: dict[str, str]) -> None:
    result = python(BATCH, environ, str(ROOT / "dags"))
    asked = {"version": "v2", "max_new_tokens": 96}
    assert result["calls"] == [["good", "out", asked], ["bad", "out", asked]]
    assert [state[0] for state in result["states"]] == ["success", "failed", "failed"]
    assert result["states"][0][2] == [{"rows": 3}]


CANARY = """
import json, os, sys
from pathlib import Path
from llmops.config import Config
from llmops.release import rollout, trials
from llmops.release.counts import SideCounts
from llmops.release.registry.registry import registry_of

settings = Config(home=Path(sys.argv[2]))
registry = registry_of(settings)
facts = dict.fromkeys(("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset"), "x")
source = Path(sys.argv[2]) / "servable"
source.mkdir(parents=True)
for n, status in enumerate(("rejected", "promoted", "promoted", "rejected"), 1):  # by the gate
    passed = {**facts, "compress": str(n), "status": status, "compared_with": "v1"}
    registry.publish(passed, {"servable": source}, lambda v: {}, by="test", why="")
    registry.promote("v1", override="the first")

pokes = []
due = rollout.is_due

def counting(registry, trial, rules):  # stands for the serving app: more requests at every look
    pokes.append([rules.requests, rules.minutes])
    sides = trials.TrialCounts()
    for n in range(200 * len(pokes)):
        for name, side in (("canary", sides.canary), ("champion", sides.champion)):
            caller = f"{name} {n % (20 if side is sides.canary else 180)}"  # a draw of 10 %
            if side is sides.canary and registry.canary().version == "v3" and n % 5 == 0:
                side.count(caller, "failed")
            else:
                side.add(caller, 1.0, 5, 5)
    trials.write_counts(registry, registry.canary(), "app", sides)
    return due(registry, trial, rules)

rollout.is_due = counting
from airflow.dag_processing.dagbag import DagBag
runs = []
none = dict.fromkeys(("version", "requests", "minutes"))
for conf in ({"version": "v4"}, {"version": "v4", "override": "mine"}, {"version": "v2", "requests": 1200},
             {"version": "v3", "requests": 30, "minutes": 60}, {"version": "v9"}, none, "the gate's", none,
             "an admin's", none, {"version": "v4"}):
    if conf == "the gate's":  # as the pipeline begins it where `release.canary` is on
        facts |= {"compress": "5", "status": "promoted", "compared_with": registry.aliases()["champion"]}
        registry.publish(facts, {"servable": source}, lambda v: {}, by="gate", why="better", canary=0.1)
        continue
    if conf == "an admin's":
        rollout.start(registry, settings.events, "v4", 0.1, by="ana", why="look at it", override="only to look at it")
        continue
    # a DAG keeps what a run was given
    dag = DagBag(dag_folder=sys.argv[1] + "/llmops_canary.py").dags["llmops_canary"]
    dag.get_task("wait").poke_interval = 0.01
    run = dag.test(run_conf=conf)
    tasks = {t.task_id: t for t in run.get_task_instances()}
    decision = tasks["decide"].xcom_pull(task_ids="decide") or {}
    runs.append([run.state, decision.get("outcome"), tasks["start"].try_number, registry.aliases()["champion"]])
events = [h["by"] for h in registry.history() if "canary" in h["why"]]
begun = [h["by"] for h in registry.history() if h["aliases"].get("canary") == "v5"][-1]
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowSkipException
from llmops.pipeline import trial_tasks
scheduled = SimpleNamespace(run_id="asset", run_type="asset_triggered")
trial_tasks.get_current_context = lambda: {"params": {**none, "share": 0.1}, "dag": dag, "dag_run": scheduled}
try:
    trial_tasks.start.function("canary")
except AirflowSkipException as error:
    skipped = str(error)
reschedules = dag.get_task("wait").reschedule
print("RESULT" + json.dumps({"runs": runs, "pokes": pokes, "by": events, "reschedules": reschedules,
                            "begun": begun, "skipped": skipped, "running": registry.canary().version,
                            "kind": registry.decisions("v5")[-1]["outcome"]}))
"""


def test_a_canary_is_started_waited_for_without_a_worker_and_decided(environ: dict[str, str], tmp_path: Path) -> None:
    result = python(
        CANARY, {**environ, "LLMOPS_HOME": str(tmp_path / "home")}, str(ROOT / "dags"), str(tmp_path / "home")
    )
    rejected, with_a_reason, good, bad, unknown, none, going, *others = result["runs"]
    assert good == ["success", "no_regression", 1, "v2"]
    assert bad == ["success", "regression", 1, "v2"]
    for refused in (rejected, with_a_reason):  # who may trigger runs may not deploy what the gate did not pass
        assert refused[0] == "failed" and refused[2:] == [1, "v1"]
    assert unknown[0] == "failed" and unknown[2:] == [1, "v2"]
    assert none == ["success", None, 1, "v2"]  # skipped: there is no canary to go on with
    assert going == ["success", "no_regression", 1, "v5"] and (result["begun"], result["kind"]) == (
        "gate",
        "no_regression",
    )
    assert others == [["failed", None, 1, "v5"]] * 2 and result["running"] == "v4"  # an admin's trial goes on
    assert "started by ana" in result["skipped"]
    assert result["pokes"] == [*[[1200, 1440]] * 6, [1000, 60], [1000, 1440]] and result["reschedules"]
    assert result["by"] and all(by.startswith("dag_test, run ") for by in result["by"])  # who triggered it


AB_TEST = (
    CANARY.split("pokes = []")[0]
    + """
from llmops.frame.errors import StateUnavailable
due, away = rollout.is_due, [1] * 5

def liked(registry, trial, rules):  # stands for the serving app: v2 is liked, v3 is not
    if away and away.pop():  # more often than a task is tried
        raise StateUnavailable("the database is away")
    going, sides = registry.canary(), trials.TrialCounts()
    for n in range(1000):
        for name, side in (("a", sides.canary), ("b", sides.champion)):
            up = (n % 10 < 9) if (side is sides.canary) == (going.version == "v2") else (n % 10 < 2)
            side.add(f"{name} {n % 40}", 1.0, 5, 5)
            side.count(f"{name} {n % 40}", "up" if up else "down")
    trials.write_counts(registry, going, "app", sides)
    return due(registry, trial, rules)

rollout.is_due = liked
from airflow.dag_processing.dagbag import DagBag
runs = []
for conf, configured in (({"version": "v4"}, "false"), ({"version": "v2", "promote": True}, "false"),
                         ({"version": "v2"}, "false"), ({"version": "v2"}, "true"), ({"version": "v3"}, "true")):
    os.environ["LLMOPS_RELEASE__AB_PROMOTE"] = configured
    # a DAG keeps what a run was given
    dag = DagBag(dag_folder=sys.argv[1] + "/llmops_ab_test.py").dags["llmops_ab_test"]
    dag.get_task("wait").poke_interval = 0.01
    run = dag.test(run_conf=conf)
    tasks = {t.task_id: t for t in run.get_task_instances()}
    decision = tasks["decide"].xcom_pull(task_ids="decide") or {}
    runs.append([run.state, decision.get("outcome"), registry.aliases()["champion"]])
kept = [[one["version"], one["outcome"]] for one in registry.decisions() if one["kind"] == "ab_test"]
print("RESULT" + json.dumps({"runs": runs, "kept": kept}))
"""
)


def test_an_ab_test_promotes_what_users_like_better_if_configured_so(environ: dict[str, str], tmp_path: Path) -> None:
    result = python(
        AB_TEST, {**environ, "LLMOPS_HOME": str(tmp_path / "home")}, str(ROOT / "dags"), str(tmp_path / "home")
    )
    assert result["runs"] == [
        ["failed", None, "v1"],
        ["failed", None, "v1"],
        ["success", "no_regression", "v1"],
        ["success", "no_regression", "v2"],
        ["success", "regression", "v2"],
    ]
    assert result["kept"] == [["v2", "no_regression"], ["v2", "no_regression"], ["v3", "regression"]]


MONITORING = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1] + "/llm_monitoring.py").dags["llm_monitoring"]
dag.get_task("deliver").retries = 0
run = dag.test()
tasks = {t.task_id: t for t in run.get_task_instances()}
values = {name: t.xcom_pull(task_ids=name) for name, t in tasks.items()}
print("RESULT" + json.dumps([run.state, {name: t.state for name, t in tasks.items()}, values]))
"""


def test_monitoring_delivers_then_judges(environ: dict[str, str]) -> None:
    emit(Path(environ["LLMOPS_HOME"]) / "events", "llmops.serving", {"http.response.status_code": 200})
    state, _, values = python(MONITORING, environ, str(ROOT / "dags"))
    assert state == "success"
    assert values["deliver"]["local"]["sent"] >= 1 and values["drift"]["state"] == "no champion"
    rules = {alert["rule"] for alert in values["judge"]["alerts"]}  # with those of runs that other tests let fail
    assert not rules & {"latency_p95", "error_rate"} and values["judge"]["since"] < values["judge"]["until"]
    assert values["judge"]["told"] == []


def test_monitoring_with_a_sink_down_is_red_and_still_tells_a_decline(environ: dict[str, str], tmp_path: Path) -> None:
    sinks = {"LLMOPS_MONITORING__SINKS": '["otlp"]', "LLMOPS_MONITORING__OTLP_URL": "http://127.0.0.1:1"}
    down = {**environ, "LLMOPS_HOME": str(tmp_path), **sinks}
    emit(tmp_path / "events", "llmops.serving", {"http.response.status_code": 200})
    rules: tuple[Rule, ...] = ("decay", "drift", "latency_p95")
    for minutes, rule in enumerate(rules, start=-9):  # the event of none of them has come to a sink
        raised = datetime.now(UTC) + timedelta(minutes=minutes)
        lifecycle.raise_alert_once(Config(home=tmp_path), Breach(rule, f"{rule} is bad"), rule, raised)
    state, tasks, values = python(MONITORING, down, str(ROOT / "dags"))
    assert state == "failed" and values["decline"] == ["decay is bad", "drift is bad"]  # which starts the improvement
    judged = {"judge": "success", "decline": "success", "drift": "success"}
    assert tasks == {"deliver": "failed", **judged, "delivered_and_judged": "upstream_failed"}


IMPROVEMENT = """
import json, sys
from datetime import datetime, timedelta, UTC
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from llmops.config import load
from llmops.data.feedback import rows
from llmops.monitoring.improve import weekly
from llmops.state.database import database_of

def trigger(self, context):
    raise ValueError("the pipeline failed")

TriggerDagRunOperator.execute = trigger
config, real, states = load(), weekly.read_feedback, []
noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
for days in (0, 1):  # a run of a test is of now
    weekly.read_feedback = lambda config, moment: real(config, noon + timedelta(days=days))
    run = DagBag(dag_folder=sys.argv[1] + "/llm_continuous_improvement.py").dags["llm_continuous_improvement"].test()
    states.append([run.state, {t.task_id: t.state for t in run.get_task_instances()}])
    for row in rows.read(database_of(config), "waiting"):  # somebody accepts what waits after the first run
        rows.decide(database_of(config), row.id, "accepted", by="a test", who={})
        moment = (noon + timedelta(hours=-11)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with database_of(config).change() as connection:
            rows.update(connection, row.id, decided=moment)
print("RESULT" + json.dumps(states))
"""


def test_an_improvement_whose_pipeline_fails_is_red_and_reports_it(environ: dict[str, str], tmp_path: Path) -> None:
    """Runs that go well are in test_improvement.py."""
    file = tmp_path / "llmops.yaml"
    file.write_text("collect: {sources: [{name: said, kind: feedback}]}", encoding="utf-8")
    here = {**environ, "LLMOPS_HOME": str(tmp_path), "LLMOPS_CONFIG": str(file)}
    asked = {"llmops.feedback.question": "What is it?", "llmops.feedback.correction": "It is new."}
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {"@timestamp": yesterday, "http.request.id": "1", "llmops.key.prefix": "00000000", **asked}
    emit(tmp_path / "events", "llmops.feedback", {**said, "user.roles": ["user"]})
    nothing, failed = python(IMPROVEMENT, here, str(ROOT / "dags"))
    assert (nothing[0], nothing[1]["retrain"], nothing[1]["improved"]) == ("success", "skipped", "success")
    assert (failed[0], failed[1]["retrain"], failed[1]["report"]) == ("failed", "failed", "success")
    drain_spool(tmp_path / "events", Monitoring())
    told = list(LocalStore(tmp_path / "events").find("llmops.improvement"))
    assert [e["event.reason"] for e in told] == ["nothing new", "failed"]
