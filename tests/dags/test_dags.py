"""The DAG files: they parse light, are wired as the stages say, and run the stages.

Airflow reads its home when it is imported, so everything here happens in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmops.monitoring.events import emit
from llmops.pipeline import STAGES

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "dags").glob("*.py"))
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
        "catchup": dag.catchup, "runs": dag.max_active_runs, "start": str(dag.start_date), "doc": dag.doc_md,
        "schedule": getattr(dag.timetable, "expression", None),
        "hours": dag.timetable.interval.total_seconds() / 3600 if hasattr(dag.timetable, "interval") else None,
        "params": sorted(dag.params), "first": first_run(dag),
    }
    for name, dag in bag.dags.items()
}
confs = json.loads(sys.argv[2])
answers = [refused(bag.dags["llmops_pipeline"].params.__copy__(), conf) for conf in confs]
batch = [refused(bag.dags["llmops_batch"].params.__copy__(), conf) for conf in ({}, {"input": "a", "output": "b"})]
print("RESULT" + json.dumps({"errors": bag.import_errors, "dags": dags, "answers": answers, "batch": batch}))
"""

RUN = """
import json, sys, types
from pathlib import Path
from llmops import pipeline
from llmops.errors import SourceError

calls = []

def collect(config, *, interval, out):
    calls.append(["collect", interval])
    if config.root.name == "empty":
        raise SourceError("source faq yields nothing")
    (out / "documents").write_text(interval)
    return {"documents": 1}

def clean(config, *, collect, out):
    calls.append(["clean", (collect / "documents").read_text(), config.min_chars])
    return {"kept": 1}

for function in (collect, clean):
    module = types.ModuleType("stand_in_" + function.__name__)
    module.run = function
    sys.modules[module.__name__] = module
pipeline.STAGES = {
    "collect": pipeline.Stage("stand_in_collect", interval=True),
    "clean": pipeline.Stage("stand_in_clean", ("collect",)),
}
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1]).dags["llmops_pipeline"]
states = []
for conf in json.loads(sys.argv[2]):
    run = dag.test(run_conf=conf)
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
    {"train": {"seed": 1}, "tune": {"trials": 5}, "interval": "2026-01-31"},
    {"train": {"sed": 1}},
    {"train": {"seed": "one"}},
    {"train": 3},
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
    tasks = found["dags"]["llmops_pipeline"]["tasks"]
    assert tasks == {name: sorted(stage.inputs) for name, stage in STAGES.items()}
    assert list(tasks) == list(STAGES)


def test_no_dag_catches_up_or_overlaps_or_runs_by_itself_when_airflow_first_sees_it(found: Any) -> None:
    for dag in found["dags"].values():
        assert (dag["catchup"], dag["runs"]) == (False, 1)
        assert dag["schedule"] is None or dag["first"] > "2026-01-04T00:59"
    schedules = {name: (dag["schedule"], dag["hours"]) for name, dag in found["dags"].items()}
    assert schedules == {
        "llmops_batch": (None, None),
        "llmops_canary": (None, None),
        "llmops_pipeline": ("0 0 * * *", 24),
        "llm_governance_review": ("0 0 * * *", 24),
        "llm_monitoring": ("0 * * * *", 1),
        "llm_continuous_improvement": ("0 0 * * 0", 168),
    }


def test_a_batch_runs_only_when_triggered_with_its_files_and_goes_on_when_it_was_interrupted(found: Any) -> None:
    dag = found["dags"]["llmops_batch"]
    assert dag["first"] is None and dag["tasks"] == {"answer": []} and dag["retries"]["answer"] >= 2
    assert set(dag["params"]) == {"config", "input", "output", "version", "url", "max_new_tokens"}
    assert "input" in found["batch"][0] and found["batch"][1] == ""


def test_long_stages_are_tried_again(found: Any) -> None:
    retries = found["dags"]["llmops_pipeline"]["retries"]
    assert all(retries[name] >= 2 for name, stage in STAGES.items() if stage.resumable)


def test_every_section_of_a_stage_is_a_parameter_and_mistakes_are_refused_when_triggering(found: Any) -> None:
    assert set(found["dags"]["llmops_pipeline"]["params"]) == {"config", "interval", *STAGES}
    good, unknown, wrong_type, no_section = found["answers"]
    assert good == ""
    assert "sed" in unknown and "one" in wrong_type and "train" in no_section


def test_a_run_calls_the_stages_with_overrides_interval_and_paths(environ: dict[str, str]) -> None:
    confs = [
        {"interval": "2026-01-31", "clean": {"min_chars": 9}},
        {"interval": "2026-01-31", "clean": {"min_chars": 9}},
        {"interval": "2026-02-01", "trian": {"seed": 1}},
        {"interval": "2026-02-01", "collect": {"root": "/empty"}},
    ]
    result = python(RUN, environ, str(ROOT / "dags"), json.dumps(confs))
    done, again, misspelt, empty = result["states"]
    assert done[0] == again[0] == "success"
    # the second run finds both artifacts done; the third stops before any stage; the fourth is not tried again
    assert result["calls"] == [["collect", "2026-01-31"], ["clean", "2026-01-31", 9], ["collect", "2026-02-01"]]
    assert misspelt[0] == empty[0] == "failed"
    assert empty[1]["clean"][0] == "upstream_failed"


BATCH = """
import json, sys, types
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
dag = DagBag(dag_folder=sys.argv[1]).dags["llmops_batch"]
states = []
for source in ("good", "bad"):
    run = dag.test(run_conf={"input": source, "output": "out", "version": "v2"})
    states.append([run.state, [t.try_number for t in run.get_task_instances()],
                   [t.xcom_pull(task_ids="answer") for t in run.get_task_instances()]])
print("RESULT" + json.dumps({"calls": calls, "states": states}))
"""


def test_a_batch_hands_its_parameters_on_and_is_not_tried_again_on_a_bad_file(environ: dict[str, str]) -> None:
    result = python(BATCH, environ, str(ROOT / "dags"))
    asked = {"version": "v2", "url": "", "max_new_tokens": 96}
    assert result["calls"] == [["good", "out", asked], ["bad", "out", asked]]
    assert [state[0] for state in result["states"]] == ["success", "failed"]
    assert result["states"][0][2] == [{"rows": 3}]


CANARY = """
import json, sys
from pathlib import Path
from llmops.config import Config
from llmops.release import rollout
from llmops.release.canary import Figures
from llmops.registry.registry import registry_of

settings = Config(home=Path(sys.argv[2]))
registry = registry_of(settings)
facts = dict.fromkeys(("compared_with", "base_model", "base_revision", "licence", "quantisation", "interval", "run",
                       "dataset"), "x") | {"status": "rejected"}
source = Path(sys.argv[2]) / "servable"
source.mkdir(parents=True)
for n in (1, 2, 3):
    registry.publish({**facts, "compress": str(n)}, {"servable": source}, lambda v: {}, by="test", why="")
registry.promote("v1")

pokes = []
due = rollout.due

def counting(registry, trial, requests, minutes):  # stands for the serving app: more requests at every look
    pokes.append([requests, minutes])
    figures = Figures(answered=20 * len(pokes)), Figures(answered=200 * len(pokes))
    if registry.canary().version == "v3":
        figures[0].failed = 20
    rollout.count(registry, registry.canary(), "app", *figures)
    return due(registry, trial, requests, minutes)

rollout.due = counting
from airflow.dag_processing.dagbag import DagBag
dag = DagBag(dag_folder=sys.argv[1]).dags["llmops_canary"]
dag.get_task("wait").poke_interval = 0.01
runs = []
for conf in ({"version": "v2", "share": 0.2, "requests": 40}, {"version": "v3", "requests": 30}, {"version": "v9"}):
    run = dag.test(run_conf=conf)
    tasks = {t.task_id: t for t in run.get_task_instances()}
    decision = tasks["decide"].xcom_pull(task_ids="decide") or {}
    runs.append([run.state, decision.get("outcome"), tasks["start"].try_number, registry.aliases()["champion"]])
events = [h["by"] for h in registry.history() if "canary" in h["why"]]
reschedules = dag.get_task("wait").reschedule
print("RESULT" + json.dumps({"runs": runs, "pokes": pokes, "by": events, "reschedules": reschedules}))
"""


def test_a_canary_is_started_waited_for_without_a_worker_and_promoted_or_not(
    environ: dict[str, str], tmp_path: Path
) -> None:
    result = python(
        CANARY, {**environ, "LLMOPS_HOME": str(tmp_path / "home")}, str(ROOT / "dags"), str(tmp_path / "home")
    )
    good, bad, unknown = result["runs"]
    assert good == ["success", "promoted", 1, "v2"]
    assert bad == ["success", "worse", 1, "v2"]
    assert unknown[0] == "failed" and unknown[2:] == [1, "v2"]
    assert result["pokes"] == [[40, 60], [40, 60], [30, 60]] and result["reschedules"]
    assert all(by.startswith("run ") for by in result["by"])


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
    assert result["llm_governance_review"] == ["success", {"review": {"state": "no champion"}}]
