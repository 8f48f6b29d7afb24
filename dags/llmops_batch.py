"""
### Answer a Parquet file of questions

Runs when triggered, with the paths of the input (a column `question`, optionally `context`) and of the output:

    llmops trigger llmops_batch --set input=/data/in.parquet --set output=/data/out.parquet

A model version on the worker answers, by default the champion (`version`). An interrupted task continues at its next
try.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from llmops.pipeline.tasks import DEFAULT_ARGS, POOL, report_failed_run, resolve_run_alerts


@dag(
    dag_id="llmops_batch",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "input": Param("", type="string", minLength=1, description="Parquet file of questions."),
        "output": Param("", type="string", minLength=1, description="Parquet file to write."),
        "version": Param("champion", type="string", minLength=1, description="Version, alias, or `base`."),
        "max_new_tokens": Param(96, type="integer", minimum=1, description="Longest answer, in tokens."),
    },
    default_args=DEFAULT_ARGS,
    on_failure_callback=report_failed_run,
    on_success_callback=resolve_run_alerts,
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_batch() -> None:
    @task(multiple_outputs=False, pool=POOL)
    def answer() -> dict[str, Any]:
        from dataclasses import asdict
        from pathlib import Path

        from llmops.config import load
        from llmops.config.run_parameters import refuse_unknown
        from llmops.frame.time_limit import limit_time
        from llmops.release.batch.batch import run_batch

        context = get_current_context()
        asked, settings = context["params"], load()
        refuse_unknown(asked, context["dag"].params)
        with limit_time("The batch", settings.schedule.get_limit_s("batch")):
            done = run_batch(
                settings,
                Path(asked["input"]),
                Path(asked["output"]),
                version=asked["version"],
                max_new_tokens=int(asked["max_new_tokens"]),
            )
        return asdict(done)

    answer()


llmops_batch()
