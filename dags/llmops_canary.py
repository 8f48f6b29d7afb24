"""
### Try a version on a share of the callers, then promote it or not

With `release.canary: true` it runs after the pipeline made a version, and continues with the canary that the gate has
started; without a canary it is skipped. Or when triggered:

    llmops trigger llmops_canary --set version=v3 --set share=0.1 --set minutes=60

Waits, without holding a worker, until the canary has answered `requests` requests of enough callers
(`release.canary_callers`), or `minutes` are over. Then the verdict decides: `no_regression` promotes it, `regression`
and `insufficient_data` withdraw it, and after an `error` it stays and an alert is raised. The serving app withdraws a
canary by itself at a regression; the run then ends with the outcome `over`. A version that the gate did not pass is
refused: only an admin can override that, by `--override` on the command line or by the API. So is a run that would
replace a running trial, go on with one that neither it nor the gate started, or change the `requests` or `minutes` of
the gate's.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, Param, dag

from llmops.pipeline.tasks import DEFAULT_ARGS, MODEL, load_settings, report_failed_run, resolve_run_alerts
from llmops.pipeline.trial_tasks import decide, start, wait


@dag(
    dag_id="llmops_canary",
    schedule=[Asset(MODEL)] if load_settings().release.canary else None,
    catchup=False,
    max_active_runs=1,
    params={
        "version": Param(
            None, type=["null", "string"], description="Version or alias to try; none: the canary of the gate."
        ),
        "share": Param(0.1, type="number", exclusiveMinimum=0, exclusiveMaximum=1, description="Of the callers."),
        "minutes": Param(
            None,
            type=["null", "number"],
            minimum=1,
            maximum=100_000,
            description="Deadline of the trial; not given: release.canary_minutes.",
        ),
        "requests": Param(
            None,
            type=["null", "integer"],
            minimum=30,
            description="Requests of the canary that the trial needs; at least release.canary_requests.",
        ),
    },
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(minutes=10)},
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_canary() -> None:
    trial = start("canary")
    wait(trial) >> decide(trial)


llmops_canary()
