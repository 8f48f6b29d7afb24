"""The DAG files: they parse light and are wired as the stages say.

Airflow reads its home when it is imported, so a process of its own reads the files and tells what it has found.
"""

import json
from typing import Any

import pytest

from llmops.config import Config
from llmops.config.run_parameters import RunParameters
from llmops.pipeline import stage_inputs
from llmops.pipeline.pipeline import STAGES
from llmops.pipeline.pool import POOL

from .conftest import ROOT, python

FILES = sorted((ROOT / "dags").glob("*.py"))
MODEL = "llmops://model"
HEAVY = ("torch", "pyspark", "transformers", "feast", "peft", "datasets", "presidio_analyzer", "sklearn")

STRUCTURE = (
    f"HEAVY = {HEAVY!r}"
    + """
import json, os, sys
import airflow.timetables.trigger
import pendulum
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction
bag = DagBag(dag_folder=sys.argv[1])
heavy = [module for module in HEAVY if module in sys.modules]
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
os.environ["LLMOPS_RELEASE__CANARY"] = "true"
canary = DagBag(dag_folder=sys.argv[1] + "/llmops_canary.py").dags["llmops_canary"]
os.environ["LLMOPS_GROUNDING__ENABLED"] = "true"
grounded = DagBag(dag_folder=sys.argv[1] + "/llmops_pipeline.py").dags["llmops_pipeline"]
found["waits"] = sorted(grounded.get_task("evaluate").upstream_task_ids)
found["embeds"] = grounded.get_task("features").pool
os.environ["LLMOPS_RETENTION__DAILY"] = "false"
try:
    gc = bag.dags["llmops_pipeline"].get_task("gc").python_callable()
except Exception as error:
    gc = [type(error).__name__, str(error)]
os.environ["LLMOPS_CONFIG"] = sys.argv[3]
broken = DagBag(dag_folder=sys.argv[1])
late = bool(broken.dags["llmops_pipeline"].deadline)
found |= {"heavy": heavy, "canary": triggers(canary), "broken": [broken.import_errors, late], "gc": gc}
print("RESULT" + json.dumps(found))
"""
)

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
def found(airflow_home: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    (broken := tmp_path_factory.mktemp("broken") / "broken.yaml").write_text("train: {sed: 1}")
    return python(STRUCTURE, airflow_home, str(ROOT / "dags"), json.dumps(CONFS), str(broken))


def test_one_dag_a_file_named_like_it_and_parsing_imports_nothing_heavy_and_no_error(found: Any) -> None:
    assert found["heavy"] == [] and found["errors"] == {}
    assert sorted(found["dags"]) == [file.stem for file in FILES]
    assert all(dag["doc"] for dag in found["dags"].values())
    assert found["broken"] == [{}, True]  # and a configuration that cannot be read takes no DAG away


def test_the_pipeline_has_a_task_per_stage_wired_by_its_inputs(found: Any) -> None:
    dag = found["dags"]["llmops_pipeline"]
    stages = {name: sorted(stage_inputs.list_inputs(stage, Config())) for name, stage in STAGES.items()}
    assert "index" not in stages["evaluate"] and found["waits"] == sorted(STAGES["evaluate"].inputs)
    assert dag["tasks"] == stages | {"gc": [list(STAGES)[-1]]}
    assert list(dag["tasks"]) == [*STAGES, "gc"] and dag["teardowns"] == ["gc"]
    assert all(dag["retries"][name] >= 2 for name, stage in STAGES.items() if stage.resumable)
    assert found["gc"] == ["AirflowSkipException", "retention.daily is off."]


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
        "llm_governance_review": ("0 6 * * *", 24),  # at another minute than the pipeline
        "llm_monitoring": ("0 * * * *", 1),
        "llm_continuous_improvement": ("0 0 * * 0", 168),
    }


def test_a_backfill_is_told_the_days_of_its_runs_and_each_reads_the_day_before(found: Any) -> None:
    # logical date, day that is read, day of the run; --from-date 2026-01-30 --to-date 2026-01-31, as in the README
    days = [["2026-01-29", "2026-01-29", "2026-01-30"], ["2026-01-30", "2026-01-30", "2026-01-31"]]
    assert found["backfill"] == days


def test_a_batch_runs_only_when_triggered_with_its_files_and_goes_on_when_it_was_interrupted(found: Any) -> None:
    dag = found["dags"]["llmops_batch"]
    assert dag["first"] is None and dag["tasks"] == {"answer": []} and dag["retries"]["answer"] >= 2
    assert set(dag["params"]) == {"input", "output", "version", "max_new_tokens"}
    assert "input" in found["batch"][0] and found["batch"][1] == ""


def test_what_computes_waits_in_the_pool_and_every_failure_is_told(found: Any) -> None:
    pools = found["dags"]["llmops_pipeline"]["pools"]
    waiting = {name for name, pool in pools.items() if pool == POOL}
    assert waiting == {n for n, s in STAGES.items() if s.heavy} and found["embeds"] == POOL
    assert {n for n, s in STAGES.items() if "torch" in s.libraries} <= waiting  # whatever loads a model
    assert found["dags"]["llmops_batch"]["pools"] == {"answer": POOL}
    reviewing = found["dags"]["llm_governance_review"]["pools"]
    assert {name for name, pool in reviewing.items() if pool == POOL} == {"review", "decay"}
    assert all(dag["told"] and dag["policy"] for dag in found["dags"].values())
    assert found["dags"]["llmops_pipeline"]["late"]


def test_what_follows_a_new_version_and_a_decline(found: Any) -> None:
    assets = {name: dag["assets"] for name, dag in found["dags"].items() if dag["assets"]}
    assert assets.pop("llm_continuous_improvement") == ["llmops://decline/"]
    assert assets == {"llm_governance_review": [f"{MODEL}/"]}
    assert found["canary"] == [f"{MODEL}/"]  # where versions are tried as canaries, the end of their trials
    dag = found["dags"]["llm_continuous_improvement"]  # which changes no setting and no seed
    assert dag["triggers"] == {"llmops_pipeline": None} and dag["tasks"]["retrain"] == ["is_something_new"]


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
