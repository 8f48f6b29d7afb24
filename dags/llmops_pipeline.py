"""
### From raw data to a served model

`collect clean index annotate select features tune train compress evaluate govern release deploy push_to_hub`, one
task per stage. Each passes the path of its artifact to the next. A stage whose artifact exists has nothing to do. So a
retry or a second run only does what is missing, and on a day without new data every task after `collect` succeeds at
once; its log says since when nothing has changed. `release` promotes the candidate only if the gate passes it. New
results are events of the assets `llmops://dataset` and `llmops://model`, on which other DAGs can be scheduled.

At the end `gc` removes unneeded data (section `retention`), even after a failure. It does not influence the run's
state: its failure raises an alert, and while another run is active it is skipped.

Runs daily for the day that has just ended (UTC); a run by hand does the same, at any hour. A day that has not ended is
refused. By hand, with some training settings changed for this run:

    llmops trigger llmops_pipeline --set epochs=3 --set trials=10

All other settings come from the deployed configuration. Missed runs, of the mornings of 2026-01-30 and 31, which read
the days before, 2026-01-29 and 30:

    llmops airflow backfill create --dag-id llmops_pipeline --from-date 2026-01-30 --to-date 2026-01-31
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, AssetAlias, CronTriggerTimetable, Param, dag, get_current_context, task

from llmops.config.run_parameters import build_schemas
from llmops.model.base.catalog import read_catalogue
from llmops.pipeline import stage_inputs
from llmops.pipeline.pipeline import STAGES
from llmops.pipeline.tasks import (
    ASSETS,
    DEFAULT_ARGS,
    POOL,
    describe_trigger,
    load_settings,
    make_asset_extra,
    make_deadline,
    report_failed_gc,
    report_failed_run,
    resolve_gc_alert,
    resolve_run_alerts,
)


@dag(
    dag_id="llmops_pipeline",
    # without `run_immediately` Airflow runs the last interval as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@daily", timezone="UTC", interval=timedelta(days=1), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    params={
        name: Param(None, **schema)
        for name, schema in build_schemas(base_model=[entry.model for entry in read_catalogue()]).items()
    },
    default_args=DEFAULT_ARGS,
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    deadline=make_deadline(),
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_pipeline() -> None:
    @task
    def stage(name: str, inputs: dict[str, str]) -> str:
        from pathlib import Path

        from llmops.config import load
        from llmops.config.run_parameters import split_overrides
        from llmops.frame.intervals import parse_interval
        from llmops.pipeline.pipeline import run_stage

        context = get_current_context()
        run = context["dag_run"]
        own_day = run.data_interval_start or run.run_after - timedelta(days=1)
        interval, sections = split_overrides(context["params"])
        artifact = run_stage(
            name,
            load(overrides=sections),
            parse_interval(interval or own_day.isoformat()),
            {i: Path(path) for i, path in inputs.items()},
            run=run.run_id,
            attempt=context["ti"].try_number,
        )
        if name in ASSETS and (extra := make_asset_extra(artifact, run.run_id)):
            context["outlet_events"][AssetAlias(ASSETS[name])].add(Asset(ASSETS[name]), extra=extra)
        return str(artifact)

    @task(on_failure_callback=report_failed_gc, on_success_callback=resolve_gc_alert)
    def gc() -> dict[str, int]:
        from airflow.sdk.exceptions import AirflowSkipException

        from llmops.config import load
        from llmops.frame.errors import HomeInUse
        from llmops.privacy.retention.gc import collect_garbage

        settings = load()
        if not settings.retention.daily:
            raise AirflowSkipException("retention.daily is off.")
        try:
            removed = collect_garbage(settings, by=describe_trigger(get_current_context()["dag_run"]))
        except HomeInUse as error:
            raise AirflowSkipException(str(error)) from None
        return {"removed": len(removed.removals), "freed": removed.freed_bytes}

    config = load_settings()
    artifacts: dict[str, str] = {}
    for name, spec in STAGES.items():
        where = {"pool": POOL} if stage_inputs.is_heavy(spec, config) else {}
        outlets = [AssetAlias(ASSETS[name])] if name in ASSETS else []
        task_of = stage.override(task_id=name, outlets=outlets, **where)
        artifacts[name] = task_of(name, {i: artifacts[i] for i in stage_inputs.list_inputs(spec, config)})
    artifacts[name] >> gc().as_teardown()  # always runs, and does not influence the run's state


llmops_pipeline()
