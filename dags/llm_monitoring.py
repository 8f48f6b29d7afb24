"""
### Every hour: deliver events, look at the service level

Sends what is left in the event spool to its sinks, then judges the latency and the error rate of the requests of the
data interval against the objectives of the configuration's section `monitoring`, with an alert for each one missed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task


@dag(
    dag_id="llm_monitoring",
    # `run_immediately`: without it Airflow runs the interval that ended last as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@hourly", timezone="UTC", interval=timedelta(hours=1), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={"config": Param("", type="string", description="Path of the YAML configuration; empty: LLMOPS_CONFIG.")},
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_monitoring() -> None:
    @task(multiple_outputs=False)
    def deliver() -> dict[str, Any]:
        from dataclasses import asdict

        from llmops.config import load
        from llmops.monitoring.spool import drain

        config = load(get_current_context()["params"]["config"])
        return {sink: asdict(shipment) for sink, shipment in drain(config.events, config.monitoring).items()}

    @task(multiple_outputs=False, trigger_rule="all_done")  # a remote sink that is down must not silence alerts
    def judge() -> dict[str, Any]:
        from llmops.config import load
        from llmops.monitoring.objectives import report

        context = get_current_context()
        run, config = context["dag_run"], load(context["params"]["config"])
        until = run.data_interval_end or run.run_after
        since = run.data_interval_start or until - timedelta(hours=1)
        return report(config.events, config.monitoring, since, until)

    deliver() >> judge()


llm_monitoring()
