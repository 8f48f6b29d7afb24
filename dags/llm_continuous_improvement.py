"""
### Every week, and when the model declines: learn from what users said

Takes in what users said of answers, and judges it (section `improve`): what enough people say alike, what somebody
trusted says, and what an admin has accepted becomes an example; all else waits for a review (`/admin/review`, `llmops
feedback`). If nothing new was accepted since the last report, nothing is trained. Else `llmops_pipeline` runs with the
deployed configuration, whose source of the kind `feedback` has the new examples; the gate decides, and the champion
stays unless the candidate is significantly better. A new seed alone is no new candidate: it would only ask the same
frozen test again.

Ends with a report in words, also if nothing was trained: `llmops improve report`, the artifacts of `improve`, an event
`llmops.improvement`. Besides the clock, an alert about drift or decay starts it: `llm_monitoring` makes of one an event
of the asset `llmops://decline`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, dag, get_current_context, task

from llmops.schedule.tasks import DECLINE, DEFAULT_ARGS, run_failed, run_succeeded


@dag(
    dag_id="llm_continuous_improvement",
    schedule=AssetOrTimeSchedule(
        # `run_immediately`: without it Airflow runs the interval that ended last as soon as it first sees the DAG
        timetable=CronTriggerTimetable(
            "@weekly", timezone="UTC", interval=timedelta(days=7), run_immediately=timedelta(0)
        ),
        assets=[Asset(DECLINE)],
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(minutes=30)},
    on_failure_callback=run_failed,
    on_success_callback=run_succeeded,
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_continuous_improvement() -> None:
    @task(multiple_outputs=False)
    def read() -> dict[str, Any]:
        from llmops.config import load
        from llmops.config.run_parameters import refuse_unknown
        from llmops.improve import weekly

        context = get_current_context()
        refuse_unknown(context["params"], context["dag"].params)
        return weekly.read(load(), context["dag_run"].run_after)

    @task.short_circuit(ignore_downstream_trigger_rules=False)
    def is_something_new(found: dict[str, Any]) -> bool:
        return bool(found["new"])

    @task(multiple_outputs=False, trigger_rule="all_done")
    def report(found: dict[str, Any] | None) -> str:
        from llmops.config import load
        from llmops.improve import weekly

        context = get_current_context()
        run, ti = context["dag_run"], context["ti"]
        if found is None:  # `read` has failed
            return weekly.report_unread(load(), run.run_after, run.run_id)
        states = ti.get_task_states(dag_id=ti.dag_id, task_ids=["retrain"], run_ids=[run.run_id])
        trained = states.get(run.run_id, {}).get("retrain") == "success"
        since, until = (datetime.fromisoformat(found[name]) for name in ("since", "until"))
        return weekly.report(load(), since, until, run.run_id, bool(found["new"]), trained)

    retrain = TriggerDagRunOperator(
        task_id="retrain",
        trigger_dag_id="llmops_pipeline",
        trigger_run_id="improvement__{{ run_id }}",
        skip_when_already_exists=True,
        wait_for_completion=True,
        deferrable=True,  # waits without holding a worker
        retries=0,  # a second try would find the run that has failed, and be skipped
        execution_timeout=None,  # the stages have limits of their own
    )
    found = read()
    # a run is as good as its last tasks: without the last one a training that failed would not be seen
    is_something_new(found) >> retrain
    reported = report(found)
    retrain >> reported
    [retrain, reported] >> EmptyOperator(task_id="improved", trigger_rule="none_failed")


llm_continuous_improvement()
