"""
### Every week, and when the model declines: learn from feedback

Reads new feedback and judges it (section `improve`). Feedback becomes an example if enough people agree, if a trusted
person said it, or if an admin accepted it. All else waits for a review (`/admin/review`, `llmops feedback list`).
If nothing was accepted since the last report, nothing is trained. Otherwise `llmops_pipeline` runs with the deployed
configuration, whose source of kind `feedback` has the new examples. The gate decides: the champion stays unless the
candidate is significantly better. A new seed alone is not a new candidate, because it would only use the same frozen
test again.

Ends with a report, even if nothing was trained: `llmops improve report`, the artifacts of `improve`, an event
`llmops.improvement`. An alert about drift or decay starts it, too: `llm_monitoring` then emits an event of the asset
`llmops://decline`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, dag, get_current_context, task

from llmops.pipeline.tasks import DECLINE, DEFAULT_ARGS, report_failed_run, resolve_run_alerts


@dag(
    dag_id="llm_continuous_improvement",
    schedule=AssetOrTimeSchedule(
        # without `run_immediately` Airflow runs the last interval as soon as it first sees the DAG
        timetable=CronTriggerTimetable(
            "@weekly", timezone="UTC", interval=timedelta(days=7), run_immediately=timedelta(0)
        ),
        assets=[Asset(DECLINE)],
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(minutes=30)},
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_continuous_improvement() -> None:
    @task(multiple_outputs=False)
    def read() -> dict[str, Any]:
        from llmops.config import load
        from llmops.config.run_parameters import refuse_unknown
        from llmops.monitoring.improve import weekly

        context = get_current_context()
        refuse_unknown(context["params"], context["dag"].params)
        return weekly.read_feedback(load(), context["dag_run"].run_after)

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def is_something_new(found: dict[str, Any]) -> bool:
        return bool(found["new"])

    @task(multiple_outputs=False, trigger_rule="all_done")
    def report(found: dict[str, Any]) -> str:
        from llmops.config import load
        from llmops.monitoring.improve import weekly

        context = get_current_context()
        run, ti = context["dag_run"], context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, task_ids=["retrain"], run_ids=[run.run_id])
        trained = states.get(run.run_id, {}).get("retrain") == "success"
        since, until = (datetime.fromisoformat(found[name]) for name in ("since", "until"))
        return weekly.write_report(load(), since, until, run.run_id, bool(found["new"]), trained)

    retrain = TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="llmops_pipeline",
        trigger_run_id="improvement__{{ run_id }}",
        skip_when_already_exists=True,
        wait_for_completion=True,
        deferrable=True,  # waits without holding a worker
        retries=0,  # a second try would find the failed run, and be skipped
        execution_timeout=None,  # the stages have their own limits
    )
    found = read()
    # a run's state is that of its last tasks: without the last one a failed training would be hidden
    is_something_new(found) >> retrain
    reported = report(found)
    retrain >> reported
    [retrain, reported] >> EmptyOperator(task_id="improved", trigger_rule="none_failed")


llm_continuous_improvement()
