"""
### Answer a Parquet file of questions

Runs when triggered, with the path of the input (a column `question`, perhaps `context`) and of the output:

    airflow dags trigger llmops_batch --conf '{"input": "/data/in.parquet", "output": "/data/out.parquet"}'

A model version on the worker answers, the champion unless `version` says otherwise; with `url`, a serving app does,
asked with the key in `LLMOPS_API_KEY`. A task that was interrupted goes on where it was when it is tried again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task


@dag(
    dag_id="llmops_batch",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # a triggered run of a paused DAG waits forever
    params={
        "config": Param("", type="string", description="Path of the YAML configuration; empty: LLMOPS_CONFIG."),
        "input": Param("", type="string", minLength=1, description="Parquet file of questions."),
        "output": Param("", type="string", minLength=1, description="Parquet file to write."),
        "version": Param("champion", type="string", description="Version, alias, or `base`."),
        "url": Param("", type="string", description="A serving app that answers instead."),
        "max_new_tokens": Param(96, type="integer", minimum=1, description="Longest answer, in tokens."),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_batch() -> None:
    @task(multiple_outputs=False)
    def answer() -> dict[str, Any]:
        from dataclasses import asdict
        from pathlib import Path

        from airflow.sdk.exceptions import AirflowFailException

        from llmops.batch.batch import batch
        from llmops.config import load
        from llmops.errors import ConfigError, RegistryError, SourceError

        asked = dict(get_current_context()["params"])
        settings, source, output = load(asked.pop("config")), Path(asked.pop("input")), Path(asked.pop("output"))
        try:
            return asdict(batch(settings, source, output, **asked))
        except (ConfigError, RegistryError, SourceError) as error:  # the same at every retry
            raise AirflowFailException(str(error)) from error

    answer()


llmops_batch()
