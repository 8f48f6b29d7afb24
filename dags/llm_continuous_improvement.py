"""
### A new candidate every week

Triggers `llmops_pipeline` with a new training seed, made from the date. Its gate decides: the candidate is promoted
only if it is significantly better than the champion, and the champion stays otherwise.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, dag, get_current_context, task


@dag(
    dag_id="llm_continuous_improvement",
    # `run_immediately`: without it Airflow runs the interval that ended last as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@weekly", timezone="UTC", interval=timedelta(days=7), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_continuous_improvement() -> None:
    @task(multiple_outputs=False)
    def overrides() -> dict[str, Any]:
        run = get_current_context()["dag_run"]
        return {"train": {"seed": int((run.logical_date or run.run_after).strftime("%Y%m%d"))}}

    TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="llmops_pipeline",
        trigger_run_id="improvement__{{ run_id }}",
        conf=overrides(),
        skip_when_already_exists=True,
    )


llm_continuous_improvement()
