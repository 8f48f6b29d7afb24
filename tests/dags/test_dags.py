"""The DAG files: they parse light, are wired as the stages say, and run the stages.

Airflow reads its home when it is imported, so everything here happens in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops.alerts import ledger
from llmops.alerts.finding import Finding
from llmops.config import Config, Monitoring
from llmops.config.alerts import Rule
from llmops.config.run_parameters import RunParameters
from llmops.monitoring.events import emit
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from llmops.pipeline import STAGES
from llmops.schedule.pool import POOL

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dags").glob("*.py"))
MODEL = "llmops://model"
HEAVY = ("torch", "pyspark", "transformers", "feast", "peft", "datasets", "presidio_analyzer", "sklearn")

STRUCTURE = """
import json, sys
import airflow.timetables.trigger
import pendulum
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
bag = DagBag(dag_folder=sys.argv[1])
airflow.timetables.trigger.utcnow = lambda: pendulum.datetime(2026, 1, 4, 0, 2)  # hour, day and week have just begun

def first_run(dag):
    timetable = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag)))).timetable
    restriction = TimeRestriction(earliest=dag.start_date, latest=None, catchup=dag.catchup)
    info = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    return info.run_after.isoformat() if info else None

def triggers(dag):
    condition = getattr(dag.timetable, "asset_condition", None)
    return [asset.uri for asset in condition.objects] if condition else []

def clock(dag):
    return getattr(dag.timetable, "timetable", dag.timetable)

def refused(params, conf):
    try:
        for key, value in conf.items():
            params[key] = value
        params.validate()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""

dags = {
    name: {
        "tasks": {t.task_id: sorted(t.upstream_task_ids) for t in dag.tasks},
        "retries": {t.task_id: t.retries for t in dag.tasks},
        "triggers": {t.trigger_dag_id: t.conf for t in dag.tasks if hasattr(t, "trigger_dag_id")},
        "catchup": dag.catchup, "runs": dag.max_active_runs, "start": str(dag.start_date), "doc": dag.doc_md,
        "schedule": getattr(clock(dag), "expression", None),
        "hours": clock(dag).interval.total_seconds() / 3600 if hasattr(clock(dag), "interval") else None,
        "assets": triggers(dag),
        "pools": {t.task_id: t.pool for t in dag.tasks}, "late": bool(dag.deadline),
        "told": bool(dag.on_failure_callback and dag.on_success_callback),
        "policy": all(bool(t.retry_policy) and bool(t.on_failure_callback) for t in dag.tasks),
        "params": sorted(dag.params), "first": first_run(dag),
        "teardowns": [t.task_id for t in dag.tasks if t.is_teardown and not t.on_failure_fail_dagrun],
        "form": {p: dag.params.get_param(p).serialize() for p in dag.params},
    }
    for name, dag in bag.dags.items()
}
confs = json.loads(sys.argv[2])
answers = [refused(bag.dags["llmops_pipeline"].params.__copy__(), conf) for conf in confs]
batch = [refused(bag.dags["llmops_batch"].params.__copy__(), conf) for conf in ({}, {"input": "a", "output": "b"})]
pipeline = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags["llmops_pipeline"]))
infos = pipeline.iter_dagrun_infos_between(pendulum.datetime(2026, 1, 30), pendulum.datetime(2026, 1, 31))
backfill = [[str(moment.date()) for moment in (i.logical_date, i.data_interval.start, i.run_after)] for i in infos]
found = {"errors": bag.import_errors, "dags": dags, "answers": answers, "batch": batch, "backfill": backfill}
print("RESULT" + json.dumps(found))
"""

RUN = """
import json, sys, types
from datetime import datetime
from pathlib import Path
from llmops import pipeline
from llmops.errors import SourceError

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
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An Airflow home of its own, and an `llmops` home of its own."""
    folder = tmp_path_factory.mktemp("airflow")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "LLMOPS"))}
    environ = kept | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "LLMOPS_HOME": str(folder / "llmops"),
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environ, capture_output=True, check=True)
    return environ


def python(code: str, environ: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[-1])


CONFS: list[dict[str, Any]] = [
    {"seed": 1, "trials": 5, "interval": "2026-01-31", "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    {name: None for name in RunParameters.model_fields},
    {"seed": "one"},
    {"epochs": 0},
    {"epochs": True},
    {"rank": 1.5},
    {"interval": "yesterday"},
    {"base_model": "/tmp/model"},
]


@pytest.fixture(scope="module")
def found(environ: dict[str, str]) -> Any:
    return python(STRUCTURE, environ, str(ROOT / "dags"), json.dumps(CONFS))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_parsing_a_file_imports_nothing_heavy(file: Path, environ: dict[str, str]) -> None:
    code = f"import json, runpy, sys; runpy.run_path(sys.argv[1]); print('RESULT', json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"  # noqa: E501
    assert python(code, environ, str(file)) == []


def test_one_dag_a_file_named_like_it_and_no_import_error(found: Any) -> None:
    assert found["errors"] == {}
    assert sorted(found["dags"]) == [file.stem for file in FILES]
    assert all(dag["doc"] for dag in found["dags"].values())


def test_the_pipeline_has_a_task_per_stage_wired_by_its_inputs(found: Any) -> None:
    dag = found["dags"]["llmops_pipeline"]
    stages = {name: sorted(stage.inputs) for name, stage in STAGES.items()}
    assert dag["tasks"] == stages | {"gc": ["push_to_hub"]}  # the only one that no other waits for
    assert list(dag["tasks"]) == [*STAGES, "gc"] and dag["teardowns"] == ["gc"]


def test_with_documents_one_more_task_sees_to_it_that_something_is_served(environ: dict[str, str]) -> None:
    found = python(STRUCTURE, {**environ, "LLMOPS_GROUNDING__ENABLED": "true"}, str(ROOT / "dags"), json.dumps([]))
    tasks, names = found["dags"]["llmops_pipeline"]["tasks"], list(STAGES)
    assert tasks["fall_back"] == sorted(names[: names.index("release") + 1])
    assert tasks["deploy"] == ["fall_back"] and tasks["push_to_hub"] == ["deploy", "fall_back"]
    assert found["dags"]["llmops_pipeline"]["pools"]["fall_back"] == POOL


def test_no_dag_catches_up_or_overlaps_or_runs_by_itself_when_airflow_first_sees_it(found: Any) -> None:
    for dag in found["dags"].values():
        assert (dag["catchup"], dag["runs"]) == (False, 1)
        assert dag["schedule"] is None or dag["first"] > "2026-01-04T00:59"
    schedules = {name: (dag["schedule"], dag["hours"]) for name, dag in found["dags"].items()}
    assert schedules == {
        "llmops_batch": (None, None),
        "llmops_canary": (None, None),
        "llmops_ab_test": (None, None),
        "llmops_pipeline": ("0 0 * * *", 24),
        "llm_governance_review": ("0 0 * * *", 24),
        "llm_monitoring": ("0 * * * *", 1),
        "llm_continuous_improvement": ("0 0 * * 0", 168),
    }


def test_a_backfill_is_told_the_days_of_its_runs_and_each_reads_the_day_before(found: Any) -> None:
    days = ["logical date", "the day that is read", "the day of the run"]
    assert [dict(zip(days, run, strict=True)) for run in found["backfill"]] == [
        {"logical date": "2026-01-29", "the day that is read": "2026-01-29", "the day of the run": "2026-01-30"},
        {"logical date": "2026-01-30", "the day that is read": "2026-01-30", "the day of the run": "2026-01-31"},
    ]  # of --from-date 2026-01-30 --to-date 2026-01-31, as the README has it


def test_the_weekly_run_changes_no_setting_and_no_seed(found: Any) -> None:
    dag = found["dags"]["llm_continuous_improvement"]
    assert dag["triggers"] == {"llmops_pipeline": None} and dag["tasks"]["retrain"] == ["is_something_new"]


def test_a_batch_runs_only_when_triggered_with_its_files_and_goes_on_when_it_was_interrupted(found: Any) -> None:
    dag = found["dags"]["llmops_batch"]
    assert dag["first"] is None and dag["tasks"] == {"answer": []} and dag["retries"]["answer"] >= 2
    assert set(dag["params"]) == {"input", "output", "version", "through_server", "max_new_tokens"}
    assert "input" in found["batch"][0] and found["batch"][1] == ""


def test_what_computes_waits_in_the_pool_and_every_failure_is_told(found: Any) -> None:
    pools = found["dags"]["llmops_pipeline"]["pools"]
    assert {name for name, pool in pools.items() if pool == POOL} == {n for n, s in STAGES.items() if s.compute}
    assert found["dags"]["llmops_batch"]["pools"] == {"answer": POOL}
    assert all(dag["told"] and dag["policy"] for dag in found["dags"].values())
    assert found["dags"]["llmops_pipeline"]["late"]


def test_the_review_runs_on_a_new_version_too(found: Any) -> None:
    assets = {name: dag["assets"] for name, dag in found["dags"].items() if dag["assets"]}
    assert assets.pop("llm_continuous_improvement") == ["llmops://decline/"]
    assert assets == {"llm_governance_review": [f"{MODEL}/"]}


def test_where_versions_are_tried_as_canaries_the_schedule_concludes_their_trials(environ: dict[str, str]) -> None:
    found = python(STRUCTURE, {**environ, "LLMOPS_RELEASE__CANARY": "true"}, str(ROOT / "dags"), json.dumps([]))
    assert found["errors"] == {} and found["dags"]["llmops_canary"]["assets"] == [f"{MODEL}/"]


def test_a_broken_configuration_takes_no_dag_away(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("train: {sed: 1}")
    broken = {**environ, "LLMOPS_CONFIG": str(tmp_path / "broken.yaml")}
    found = python(STRUCTURE, broken, str(ROOT / "dags"), json.dumps([]))
    assert found["errors"] == {} and found["dags"]["llmops_pipeline"]["late"]


def test_long_stages_are_tried_again(found: Any) -> None:
    retries = found["dags"]["llmops_pipeline"]["retries"]
    assert all(retries[name] >= 2 for name, stage in STAGES.items() if stage.resumable)


def test_the_parameters_of_the_pipeline_are_the_list_and_wrong_values_are_refused_when_triggering(found: Any) -> None:
    assert list(found["dags"]["llmops_pipeline"]["form"]) == list(RunParameters.model_fields)
    answers = [bool(answer) for answer in found["answers"]]
    assert answers == [False, False, *[True] * (len(CONFS) - 2)], found["answers"]


def test_every_parameter_is_described_and_the_form_takes_what_is_empty_for_given(found: Any) -> None:
    """The form takes an empty text for missing, unless its type lets it be null; a batch has to be told its files."""
    for name, dag in found["dags"].items():
        for parameter, shown in dag["form"].items():
            assert shown["description"], (name, parameter)
            empty = shown["value"] in ("", None)
            assert not empty or "null" in shown["schema"]["type"] or parameter in ("input", "output"), (name, parameter)


def test_a_run_calls_the_stages_with_overrides_interval_and_paths(environ: dict[str, str]) -> None:
    # `dag.test()` of Airflow 3.3.2 stumbles over any deadline after the run (apache/airflow issue 73428)
    environ = {**environ, "LLMOPS_SCHEDULE__LATE_HOURS": "0"}
    confs: list[dict[str, Any]] = [
        {"interval": "2026-01-31", "epochs": 9},
        {"interval": "2026-01-31", "epochs": 9, "seed": None},
        {"interval": "2026-02-28"},
        {"logical date": "2026-03-31T00:00:00+00:00"},
        {"interval": datetime.now(UTC).date().isoformat()},
        {"interval": "2999-12-31"},
        {"interval": None},
        {},
    ]
    result = python(RUN, environ, str(ROOT / "dags"), json.dumps(confs))
    done, again, empty, dated, today, later, form, by_hand = result["states"]
    assert done[0] == again[0] == dated[0] == form[0] == by_hand[0] == "success"
    for refused in (today, later):  # a day that has not ended: nothing is read, and it is not tried again
        assert refused[0] == "failed" and refused[1]["collect"] == ["failed", 1]
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
    assert [tasks["gc"] for _, tasks in result["states"]] == [["success", 1]] * 8  # whatever the run came to


GC = """
import json, sys
from llmops.retention import gc
from airflow.dag_processing.dagbag import DagBag

def broken(*_, **__):
    raise RuntimeError("the disk is gone")

states = []
for off, broke in ((False, True), (True, False)):
    real = gc.gc
    if broke:
        gc.gc = broken
    import os
    os.environ["LLMOPS_RETENTION__DAILY"] = str(not off)
    dag = DagBag(dag_folder=sys.argv[1] + "/llmops_pipeline.py").dags["llmops_pipeline"]
    dag.get_task("gc").retries = 0
    run = dag.test(run_conf={"interval": "2026-01-31"})
    gc.gc = real
    states.append([run.state, {t.task_id: t.state for t in run.get_task_instances()}])
print("RESULT" + json.dumps(states))
"""


def test_old_data_that_cannot_be_removed_fails_no_run_and_is_told(environ: dict[str, str], tmp_path: Path) -> None:
    here = {**environ, "LLMOPS_SCHEDULE__LATE_HOURS": "0", "LLMOPS_HOME": str(tmp_path)}
    broken, off = python(RUN.split("from airflow")[0] + GC, here, str(ROOT / "dags"))
    assert broken == ["success", {"collect": "success", "train": "success", "gc": "failed"}]
    assert off == ["success", {"collect": "success", "train": "success", "gc": "skipped"}]
    with Spool(tmp_path / "events") as spool:
        alerts = [event for event in spool.read("test")[1] if event["event.dataset"] == "llmops.alert"]
    assert [alert["rule.name"] for alert in alerts] == ["gc_failed"] and "the disk is gone" in alerts[0]["message"]


#: what a run may not be given: what decides, what is read, another file, the names of sections and of their fields
AROUND: list[dict[str, Any]] = [
    {"release": {"primary": "reading_ease", "guardrails": {}, "floors": {}, "min_effect": 0}},
    {"annotate": {"seed": 5}},
    {"train": {"epochs": 5}},
    {"train.epochs": 5},
    {"config": "/tmp/evil.yaml"},
    {"home": "/tmp/evil"},
    {"Release": {}},
    {"EPOCHS": 5},
    {"epochs ": 5},
    {"epochs": 5, "govern": {"fail_on": "never"}},
    {"": 1},
]


def test_nothing_but_the_list_reaches_a_stage(environ: dict[str, str]) -> None:
    result = python(RUN, {**environ, "LLMOPS_SCHEDULE__LATE_HOURS": "0"}, str(ROOT / "dags"), json.dumps(AROUND))
    assert result["calls"] == []
    for conf, (state, tasks) in zip(AROUND, result["states"], strict=True):
        assert state == "failed" and tasks["collect"] == ["failed", 1], conf  # and not tried again


OTHERS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
states = {}
for name, conf in json.loads(sys.argv[2]).items():
    run = bag.dags[name].test(run_conf=conf)
    states[name] = {t.task_id: [t.state, t.try_number] for t in run.get_task_instances()}
print("RESULT" + json.dumps(states))
"""


def test_the_other_dags_take_no_other_configuration_either(environ: dict[str, str]) -> None:
    evil = {"config": "/tmp/evil.yaml"}
    confs = {
        "llm_monitoring": evil,
        "llm_governance_review": evil,
        "llmops_canary": {"version": "v1", **evil},
        "llmops_ab_test": {"version": "v1", **evil},
        "llmops_batch": {"input": "in.parquet", "output": "out.parquet", **evil},
    }
    states = python(OTHERS, environ, str(ROOT / "dags"), json.dumps(confs))
    firsts = {"llm_monitoring": "deliver", "llm_governance_review": "review", "llmops_batch": "answer"}
    for name in confs:
        assert states[name][firsts.get(name, "start")] == ["failed", 1], name


BATCH = """
import json, os, sys, types
from dataclasses import make_dataclass
from llmops.errors import SourceError

calls = []

def batch(settings, source, output, **asked):
    calls.append([str(source), str(output), asked])
    if str(source) == "bad":
        raise SourceError("bad is no file")
    return make_dataclass("Summary", ["rows"])(3)

module = types.ModuleType("llmops.batch.batch")
module.batch = batch
sys.modules["llmops.batch.batch"] = module
from airflow.dag_processing.dagbag import DagBag
states = []
evil, served = {"url": "http://evil.test"}, {"through_server": True}
for source, asked in (("good", {}), ("bad", {}), ("good", evil), ("good", served), ("good", served)):
    # a DAG keeps what a run was given
    dag = DagBag(dag_folder=sys.argv[1]).dags["llmops_batch"]
    run = dag.test(run_conf={"input": source, "output": "out", "version": "v2", **asked})
    if "through_server" in asked:
        os.environ["LLMOPS_DEPLOY__URL"] = "http://serving:8000"
    states.append([run.state, [t.try_number for t in run.get_task_instances()],
                   [t.xcom_pull(task_ids="answer") for t in run.get_task_instances()]])
print("RESULT" + json.dumps({"calls": calls, "states": states}))
"""


def test_a_batch_hands_its_parameters_on_and_is_not_tried_again_on_a_bad_file(environ: dict[str, str]) -> None:
    result = python(BATCH, environ, str(ROOT / "dags"))
    asked = {"version": "v2", "url": "", "max_new_tokens": 96}
    served = {**asked, "url": "http://serving:8000"}  # the key goes to the deployed address and to no other
    assert result["calls"] == [["good", "out", asked], ["bad", "out", asked], ["good", "out", served]]
    assert [state[0] for state in result["states"]] == ["success", "failed", "failed", "failed", "success"]
    assert result["states"][0][2] == [{"rows": 3}]


CANARY = """
import json, os, sys
from pathlib import Path
from llmops.config import Config
from llmops.release import rollout, trials
from llmops.release.figures import Figures
from llmops.registry.registry import registry_of

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
due = rollout.due

def counting(registry, trial, requests, minutes, margin):  # stands for the serving app: more requests at every look
    pokes.append([requests, minutes])
    sides = trials.Sides()
    for n in range(200 * len(pokes)):
        for name, side in (("canary", sides.canary), ("champion", sides.champion)):
            caller = f"{name} {n % 50}"
            if side is sides.canary and registry.canary().version == "v3" and n % 5 == 0:
                side.fail(caller)
            else:
                side.add(caller, 1.0, 5, 5)
    trials.write(registry, registry.canary(), "app", sides)
    return due(registry, trial, requests, minutes, margin)

rollout.due = counting
from airflow.dag_processing.dagbag import DagBag
runs = []
none = dict.fromkeys(("version", "requests", "minutes"))
for conf in ({"version": "v4"}, {"version": "v4", "override": "mine"}, {"version": "v2", "share": 0.2, "requests": 400},
             {"version": "v3", "requests": 30, "minutes": 60}, {"version": "v9"}, none, "the gate's", none):
    if conf == "the gate's":  # as the pipeline begins it where `release.canary` is on
        facts |= {"compress": "5", "status": "promoted", "compared_with": registry.aliases()["champion"]}
        registry.publish(facts, {"servable": source}, lambda v: {}, by="gate", why="better", canary=0.1)
        continue
    # a DAG keeps what a run was given
    dag = DagBag(dag_folder=sys.argv[1]).dags["llmops_canary"]
    dag.get_task("wait").poke_interval = 0.01
    run = dag.test(run_conf=conf)
    tasks = {t.task_id: t for t in run.get_task_instances()}
    decision = tasks["decide"].xcom_pull(task_ids="decide") or {}
    runs.append([run.state, decision.get("outcome"), tasks["start"].try_number, registry.aliases()["champion"]])
events = [h["by"] for h in registry.history() if "canary" in h["why"]]
begun = [h["by"] for h in registry.history() if "canary" in h["aliases"]][-1]
reschedules = dag.get_task("wait").reschedule
print("RESULT" + json.dumps({"runs": runs, "pokes": pokes, "by": events, "reschedules": reschedules,
                            "begun": begun, "kind": registry.decisions("v5")[-1]["outcome"]}))
"""


def test_a_canary_is_started_waited_for_without_a_worker_and_promoted_or_not(
    environ: dict[str, str], tmp_path: Path
) -> None:
    result = python(
        CANARY, {**environ, "LLMOPS_HOME": str(tmp_path / "home")}, str(ROOT / "dags"), str(tmp_path / "home")
    )
    rejected, with_a_reason, good, bad, unknown, none, going = result["runs"]
    assert good == ["success", "promoted", 1, "v2"]
    assert bad == ["success", "worse", 1, "v2"]
    for refused in (rejected, with_a_reason):  # who may trigger runs may not deploy what the gate did not pass
        assert refused[0] == "failed" and refused[2:] == [1, "v1"]
    assert unknown[0] == "failed" and unknown[2:] == [1, "v2"]
    assert none == ["success", None, 1, "v2"]  # skipped: there is no canary to go on with
    assert going == ["success", "promoted", 1, "v5"] and (result["begun"], result["kind"]) == ("gate", "promoted")
    assert result["pokes"] == [[400, 1440], [400, 1440], [30, 60], *[[1000, 1440]] * 2] and result["reschedules"]
    assert result["by"] and all(by.startswith("dag_test, run ") for by in result["by"])  # who triggered it


AB_TEST = (
    CANARY.split("pokes = []")[0]
    + """
from llmops.errors import StateUnavailable
due, away = rollout.due, [1] * 5

def liked(registry, trial, requests, minutes, margin):  # stands for the serving app: v2 is liked, v3 is not
    if away and away.pop():  # more often than a task is tried
        raise StateUnavailable("the database is away")
    going, sides = registry.canary(), trials.Sides()
    for n in range(400):
        for name, side in (("a", sides.canary), ("b", sides.champion)):
            up = (n % 10 < 9) if (side is sides.canary) == (going.version == "v2") else (n % 10 < 2)
            side.add(f"{name} {n % 40}", 1.0, 5, 5)
            side.rate(f"{name} {n % 40}", up=int(up), down=int(not up))
    written = trials.write(registry, going, "app", sides)
    if written.ab_look:
        trials.look_at_ab_test(registry, going, sides, written.ab_look)
    return due(registry, trial, requests, minutes, margin)

rollout.due = liked
from airflow.dag_processing.dagbag import DagBag
runs = []
for conf, configured in (({"version": "v4"}, "false"), ({"version": "v2", "promote": True}, "false"),
                         ({"version": "v2"}, "false"), ({"version": "v2"}, "true"), ({"version": "v3"}, "true")):
    os.environ["LLMOPS_RELEASE__AB_PROMOTE"] = configured
    # a DAG keeps what a run was given
    dag = DagBag(dag_folder=sys.argv[1]).dags["llmops_ab_test"]
    dag.get_task("wait").poke_interval = 0.01
    run = dag.test(run_conf=conf)
    tasks = {t.task_id: t for t in run.get_task_instances()}
    decision = tasks["decide"].xcom_pull(task_ids="decide") or {}
    runs.append([run.state, decision.get("outcome"), registry.aliases()["champion"]])
kept = [[one["version"], one["outcome"]] for one in registry.decisions() if one["kind"] == "ab_test"]
print("RESULT" + json.dumps({"runs": runs, "kept": kept}))
"""
)


def test_an_ab_test_ends_when_somebody_has_won_and_switches_nobody_without_that(
    environ: dict[str, str], tmp_path: Path
) -> None:
    result = python(
        AB_TEST, {**environ, "LLMOPS_HOME": str(tmp_path / "home")}, str(ROOT / "dags"), str(tmp_path / "home")
    )
    assert result["runs"] == [
        ["failed", None, "v1"],
        ["failed", None, "v1"],
        ["success", "won", "v1"],
        ["success", "won", "v2"],
        ["success", "lost", "v2"],
    ]
    assert result["kept"] == [["v2", "won"], ["v2", "won"], ["v3", "lost"]]


SMALL = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
result = {}
for name in ("llm_monitoring", "llm_governance_review"):
    run = bag.dags[name].test()
    values = {t.task_id: t.xcom_pull(task_ids=t.task_id) for t in run.get_task_instances()}
    result[name] = [run.state, values]
print("RESULT" + json.dumps(result))
"""


def test_monitoring_delivers_then_judges_and_the_review_knows_when_there_is_no_champion(
    environ: dict[str, str],
) -> None:
    emit(Path(environ["LLMOPS_HOME"]) / "events", "llmops.serving", {"http.response.status_code": 200})
    result = python(SMALL, environ, str(ROOT / "dags"))
    state, values = result["llm_monitoring"]
    assert state == "success"
    assert values["deliver"]["local"]["sent"] >= 1
    assert values["judge"]["judged"] is False and values["judge"]["since"] < values["judge"]["until"]
    assert values["judge"]["told"] == []
    assert values["drift"]["state"] == "no champion"
    state, values = result["llm_governance_review"]
    assert (state, values["review"]) == ("success", {"state": "no champion"})
    assert values["decay"]["state"] == "no champion"


RED = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1]).dags["llm_monitoring"]
dag.get_task("deliver").retries = 0
run = dag.test()
print("RESULT" + json.dumps([run.state, {t.task_id: t.state for t in run.get_task_instances()}]))
"""


@pytest.mark.parametrize("sinks", [["local", "elasticsearch"], ["otlp"]])  # of the second nothing can be read
def test_monitoring_is_red_when_a_sink_is_down_and_judges_all_the_same(
    environ: dict[str, str], tmp_path: Path, sinks: list[str]
) -> None:
    down = {
        **environ,
        "LLMOPS_HOME": str(tmp_path),
        "LLMOPS_MONITORING__SINKS": json.dumps(sinks),
        "LLMOPS_MONITORING__ELASTICSEARCH_URL": "http://127.0.0.1:1",
        "LLMOPS_MONITORING__OTLP_URL": "http://127.0.0.1:1",
    }
    emit(tmp_path / "events", "llmops.serving", {"http.response.status_code": 200})
    state, tasks = python(RED, down, str(ROOT / "dags"))
    assert state == "failed"
    judged = {"judge": "success", "decline": "success", "drift": "success"}
    assert tasks == {"deliver": "failed", **judged, "delivered_and_judged": "upstream_failed"}


IMPROVEMENT = """
import json, sys
from datetime import datetime, timedelta, UTC
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from llmops.config import load
from llmops.data.feedback import rows
from llmops.improve import weekly
from llmops.state.database import database_of

triggered, states, real, days = [], [], weekly.read, 0
weekly.read = lambda config, moment: real(config, moment + timedelta(days=days))  # of a test, it is always now

def trigger(self, context):
    triggered.append(context["dag_run"].run_id)
    if len(triggered) == 2:
        raise ValueError("the pipeline failed")

TriggerDagRunOperator.execute = trigger
config = load()
day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
for days in (0, 1, 2, 3):
    dag = DagBag(dag_folder=sys.argv[1]).dags["llm_continuous_improvement"]
    run = dag.test()
    states.append([run.state, {t.task_id: t.state for t in run.get_task_instances()}])
    if days != 1:  # after the first run and the third somebody accepts what waits
        waiting = [row for row in rows.read(database_of(config), "waiting")][0]
        rows.decide(database_of(config), waiting.id, "accepted", by="a test", who={})
        moment = (day + timedelta(days=days, hours=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with database_of(config).change() as connection:
            rows.put(connection, waiting.id, decided=moment)
print("RESULT" + json.dumps({"triggered": len(triggered), "states": states}))
"""


def test_the_improvement_trains_when_something_new_was_accepted_and_reports_always(
    environ: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "llmops.yaml"
    file.write_text("collect: {sources: [{name: said, kind: feedback}]}", encoding="utf-8")
    here = {**environ, "LLMOPS_HOME": str(tmp_path), "LLMOPS_CONFIG": str(file)}
    for n in range(3):
        asked = {"llmops.feedback.question": f"What is {n}?", "llmops.feedback.correction": f"It is {n}."}
        yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = {"@timestamp": yesterday, "http.request.id": str(n), "llmops.key.prefix": "00000000", **asked}
        emit(tmp_path / "events", "llmops.feedback", {**said, "user.roles": ["user"]})
    result = python(IMPROVEMENT, here, str(ROOT / "dags"))
    nothing, new, again, failed = result["states"]
    assert result["triggered"] == 2
    for state, tasks in (nothing, again):
        assert (state, tasks["retrain"], tasks["report"], tasks["improved"]) == (
            "success", "skipped", "success", "success",
        )  # fmt: skip
    assert (new[0], new[1]["retrain"], new[1]["report"]) == ("success", "success", "success")
    assert (failed[0], failed[1]["retrain"], failed[1]["report"]) == ("failed", "failed", "success")
    drain(tmp_path / "events", Monitoring())
    told = list(LocalStore(tmp_path / "events").find("llmops.improvement"))
    assert [e["event.reason"] for e in told] == ["nothing new", "trained", "nothing new", "failed"]
    assert [e["llmops.improvement.waiting"] for e in told] == [3, 2, 2, 1]
    reports = list((tmp_path / "artifacts" / "improve").glob("*/report.md"))
    assert len(reports) == 4 and any("Nothing new was accepted" in path.read_text() for path in reports)
    assert any("What is 0?" in path.read_text() for path in reports)


DOWN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1]).dags["llm_continuous_improvement"]
dag.get_task("read").retries = 0
run = dag.test()
print("RESULT" + json.dumps([run.state, {t.task_id: t.state for t in run.get_task_instances()}]))
"""


@pytest.mark.parametrize(
    ("sinks", "ended"), [(["local", "elasticsearch"], "nothing new"), (["elasticsearch"], "not read")]
)
def test_the_improvement_ends_with_a_report_when_a_sink_is_down_or_nothing_can_be_read(
    environ: dict[str, str], tmp_path: Path, sinks: list[str], ended: str
) -> None:
    down = {
        **environ,
        "LLMOPS_HOME": str(tmp_path),
        "LLMOPS_MONITORING__SINKS": json.dumps(sinks),
        "LLMOPS_MONITORING__ELASTICSEARCH_URL": "http://127.0.0.1:1",
    }
    emit(tmp_path / "events", "llmops.feedback", {"llmops.feedback.rating": "up"})
    state, tasks = python(DOWN, down, str(ROOT / "dags"))
    unread = ended == "not read"
    assert (state, tasks["read"]) == (("failed", "failed") if unread else ("success", "success"))
    assert tasks["report"] == "success" and tasks["retrain"] != "success"
    [file] = (tmp_path / "artifacts" / "improve").glob("*/report.json")
    assert json.loads(file.read_text())["ended"] == ended
    assert ("could not be taken in" in file.with_suffix(".md").read_text()) == unread


DECLINE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1]).dags["llm_monitoring"]
run = dag.test()
print("RESULT" + json.dumps([t.xcom_pull(task_ids="decline") for t in run.get_task_instances()][:1]))
"""


def test_an_alert_about_decay_is_an_event_that_starts_the_improvement(environ: dict[str, str], tmp_path: Path) -> None:
    rules: tuple[Rule, ...] = ("decay", "drift", "latency_p95")
    for minutes, rule in enumerate(rules, start=-9):  # the event of none of them has come to a sink
        raised = datetime.now(UTC) + timedelta(minutes=minutes)
        ledger.raise_once(Config(home=tmp_path), Finding(rule, f"{rule} is bad"), rule, raised)
    assert python(DECLINE, {**environ, "LLMOPS_HOME": str(tmp_path)}, str(ROOT / "dags")) == [
        ["decay is bad", "drift is bad"]
    ]
