"""
### Every hour: deliver events, check the service level

Sends waiting events to their sinks. Judges the rules of alerts once, at its own time, and notifies receivers. Reports
latency and errors of the data interval, the objectives of section `monitoring`, and the open alerts. Compares the last
window of requests with the champion's reference, once, for drift. A failing sink stops neither alerts nor other sinks,
but the run fails. An alert about drift or decay causes an event of the asset `llmops://decline`, which
starts `llm_continuous_improvement`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, AssetAlias, CronTriggerTimetable, dag, get_current_context, task

from llmops.pipeline.tasks import DECLINE, DEFAULT_ARGS, report_failed_run, resolve_run_alerts


@dag(
    dag_id="llm_monitoring",
    # without `run_immediately` Airflow runs the last interval as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@hourly", timezone="UTC", interval=timedelta(hours=1), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"retries": 2, "execution_timeout": timedelta(minutes=10)},
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_monitoring() -> None:
    @task(multiple_outputs=False)
    def deliver() -> dict[str, Any]:
        from dataclasses import asdict

        from llmops.config import load
        from llmops.config.run_parameters import refuse_unknown
        from llmops.events.shipping import drain_spool

        context = get_current_context()
        refuse_unknown(context["params"], context["dag"].params)
        config = load()
        return {sink: asdict(shipment) for sink, shipment in drain_spool(config.events, config.monitoring).items()}

    @task(multiple_outputs=False, trigger_rule="all_done")  # a failing sink must not silence alerts
    def judge() -> dict[str, Any]:
        from llmops.config import load
        from llmops.frame.errors import ConfigError
        from llmops.monitoring.alerts.rule_checker import build_alert_report, check_once

        run, config = get_current_context()["dag_run"], load()
        until = run.data_interval_end or run.run_after
        since = run.data_interval_start or until - timedelta(hours=1)
        told = [f"{alert['state']} {alert['rule']}" for alert in check_once(config)]
        try:
            return {**build_alert_report(config, since, until), "told": told}
        except ConfigError as error:  # no configured sink can be read, which is not a failure
            return {"why": str(error), "told": told}

    @task(multiple_outputs=False, trigger_rule="all_done")
    def drift() -> dict[str, Any]:
        from llmops.config import load
        from llmops.monitoring.drift.watch import watch_drift

        run = get_current_context()["dag_run"]
        return watch_drift(load(), run.data_interval_end or run.run_after)

    @task(trigger_rule="all_done", outlets=[AssetAlias(DECLINE)])
    def decline() -> list[str]:
        from llmops.config import load
        from llmops.monitoring.improve.decline import read_declines

        context, config = get_current_context(), load()
        run = context["dag_run"]
        until = run.data_interval_end or run.run_after
        found = read_declines(config, run.data_interval_start or until - timedelta(hours=1), until)
        if found:  # llm_continuous_improvement is scheduled on it
            context["outlet_events"][AssetAlias(DECLINE)].add(Asset(DECLINE), extra={"alerts": found})
        return found

    delivered = deliver()
    # a run's state is that of its last tasks: without this one a failed delivery would be hidden
    checked = [delivered >> judge() >> decline(), delivered >> drift()]
    [delivered, *checked] >> EmptyOperator(task_id="delivered_and_judged")


llm_monitoring()
