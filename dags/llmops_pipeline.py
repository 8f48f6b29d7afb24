"""
### From raw data to a served model

`collect clean annotate features select tune train compress evaluate govern release deploy`, one task per stage, each
handing the next the path of its artifact. A stage whose artifact is there already is skipped, so a retry or a second
run only does what is missing; `release` promotes the candidate only if the gate says so.

Runs daily for the day that has just ended (UTC). Trigger it by hand with any part of the configuration overridden:

    airflow dags trigger llmops_pipeline --conf '{"train": {"seed": 1}, "tune": {"trials": 10}}'

Backfill with `airflow backfill create --dag-id llmops_pipeline --from-date … --to-date …`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task

from llmops.config import Config
from llmops.pipeline import STAGES

PARAMS = {
    "config": Param("", type="string", description="Path of the YAML configuration; empty: LLMOPS_CONFIG."),
    "interval": Param(
        "", type="string", description="Day to read, as 2026-01-31; empty: the day that the run's data interval starts."
    ),
} | {name: Param({}, **{**Config.model_fields[name].annotation.model_json_schema(), "title": name}) for name in STAGES}


@dag(
    dag_id="llmops_pipeline",
    # `run_immediately`: without it Airflow runs the interval that ended last as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@daily", timezone="UTC", interval=timedelta(days=1), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # a triggered run of a paused DAG waits forever; the first daily one is at midnight
    params=PARAMS,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": 3.0,
        "max_retry_delay": timedelta(minutes=5),
    },
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_pipeline() -> None:
    @task
    def stage(name: str, inputs: dict[str, str]) -> str:
        from pathlib import Path

        from airflow.sdk.exceptions import AirflowFailException

        from llmops.config import load, parse_interval
        from llmops.errors import LlmopsError
        from llmops.pipeline import run_stage

        context = get_current_context()
        run = context["dag_run"]
        overrides = dict(context["params"])
        file, interval = overrides.pop("config"), overrides.pop("interval")
        try:
            day = parse_interval(interval or (run.data_interval_start or run.run_after).isoformat())
            artifact = run_stage(
                name, load(file, overrides), day, {i: Path(path) for i, path in inputs.items()}, run=run.run_id
            )
        except LlmopsError as error:  # written for the person who runs this, and the same at every retry
            raise AirflowFailException(str(error)) from error
        return str(artifact)

    artifacts: dict[str, str] = {}
    for name, spec in STAGES.items():
        artifacts[name] = stage.override(task_id=name)(name, {i: artifacts[i] for i in spec.inputs})


llmops_pipeline()
