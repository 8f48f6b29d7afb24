"""
### Review the champion

Runs every day at 06:00 UTC, and after the pipeline made a new version. Judges the champion's stored answers and its
answers to the probes by the current rules, which may be stricter than on the day of its release, and fails if a finding
is above the threshold. Then measures its quality, and emits events that show decay.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, dag, get_current_context, task

from llmops.pipeline.tasks import DEFAULT_ARGS, MODEL, POOL, report_failed_run, resolve_run_alerts


@dag(
    dag_id="llm_governance_review",
    schedule=AssetOrTimeSchedule(
        # without `run_immediately` Airflow runs the last interval as soon as it first sees the DAG
        timetable=CronTriggerTimetable(
            "0 6 * * *", timezone="UTC", interval=timedelta(days=1), run_immediately=timedelta(0)
        ),
        assets=[Asset(MODEL)],
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_governance_review() -> None:
    @task(multiple_outputs=False, pool=POOL)
    def review() -> dict[str, Any]:
        from llmops.config import load
        from llmops.config.run_parameters import refuse_unknown
        from llmops.frame.time_limit import limit_time
        from llmops.release.govern.champion import review_champion

        context = get_current_context()
        refuse_unknown(context["params"], context["dag"].params)
        settings = load()
        with limit_time("The review", settings.schedule.get_limit_s("review")):
            return review_champion(settings)

    @task(multiple_outputs=False, pool=POOL)
    def decay() -> dict[str, Any]:
        from llmops.config import load
        from llmops.frame.time_limit import limit_time
        from llmops.monitoring.decay.watch import watch_decay

        settings = load()
        with limit_time("Measuring decay", settings.schedule.get_limit_s("review")):
            return watch_decay(settings)

    # one model in memory at a time; a champion that fails the review is still measured
    reviewed, measured = review(), decay.override(trigger_rule="all_done")()
    reviewed >> measured
    [reviewed, measured] >> EmptyOperator(task_id="reviewed_and_measured")


llm_governance_review()
