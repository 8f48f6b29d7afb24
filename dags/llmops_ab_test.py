"""
### Test a version against the champion by users' ratings, then promote it or not

Runs when triggered:

    llmops trigger llmops_ab_test --set version=v3 --set share=0.5 --set minutes=10080

Starts the A/B test and waits, without holding a worker, until the version has answered `requests` requests of enough
callers (`release.canary_callers`), or `minutes` are over. The verdict is like a canary's, with ratings included. After
`no_regression` it becomes the champion if users like it better and the deployed `release.ab_promote` is on. Otherwise
the champion stays, and the decision records the result. The serving app withdraws a version by itself at a regression;
the run then ends with the outcome `over`. A version that the gate did not pass is refused: only an admin can override
that, by `--override` on the command line or by the API.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag

from llmops.pipeline.tasks import DEFAULT_ARGS, report_failed_run, resolve_run_alerts
from llmops.pipeline.trial_tasks import decide, start, wait


@dag(
    dag_id="llmops_ab_test",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "version": Param("candidate", type="string", minLength=1, description="Version or alias to test."),
        "share": Param(0.5, type="number", exclusiveMinimum=0, exclusiveMaximum=1, description="Of the callers."),
        "minutes": Param(10_080, type="number", minimum=1, maximum=100_000, description="Deadline of the test."),
        "requests": Param(
            1000,
            type="integer",
            minimum=30,
            description="Requests that the test needs; at least release.canary_requests.",
        ),
    },
    default_args=DEFAULT_ARGS | {"execution_timeout": timedelta(minutes=10)},
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_ab_test() -> None:
    trial = start("ab_test")
    wait(trial) >> decide(trial)


llmops_ab_test()
