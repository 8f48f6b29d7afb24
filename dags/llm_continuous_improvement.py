"""
### A new candidate every week, if there is something new

Triggers `llmops_pipeline` with the deployed configuration and nothing else. It retrains what data, code or settings
have changed; where nothing has, all stages are skipped and nothing is decided anew. A new seed alone is no new
candidate: it would only ask the same frozen test again. The gate decides: the candidate is promoted only if it is
significantly better than the champion, and the champion stays otherwise.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, dag

from llmops.schedule.tasks import DEFAULT_ARGS, run_failed, run_succeeded


@dag(
    dag_id="llm_continuous_improvement",
    # `run_immediately`: without it Airflow runs the interval that ended last as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@weekly", timezone="UTC", interval=timedelta(days=7), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(minutes=30)},
    on_failure_callback=run_failed,
    on_success_callback=run_succeeded,
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_continuous_improvement() -> None:
    TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="llmops_pipeline",
        trigger_run_id="improvement__{{ run_id }}",
        skip_when_already_exists=True,
    )


llm_continuous_improvement()
