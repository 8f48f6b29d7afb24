"""
### Look at the champion again

Judges the champion's stored answers and its answers to the probes by today's rules, which may know more than those of
the day it was released, and fails when a finding is above the threshold.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task


@dag(
    dag_id="llm_governance_review",
    # `run_immediately`: without it Airflow runs the interval that ended last as soon as it first sees the DAG
    schedule=CronTriggerTimetable("@daily", timezone="UTC", interval=timedelta(days=1), run_immediately=timedelta(0)),
    catchup=False,
    max_active_runs=1,
    params={"config": Param("", type="string", description="Path of the YAML configuration; empty: LLMOPS_CONFIG.")},
    tags=["llmops"],
    doc_md=__doc__,
)
def llm_governance_review() -> None:
    @task(multiple_outputs=False)
    def review() -> dict[str, Any]:
        from airflow.sdk.exceptions import AirflowFailException

        from llmops.config import load
        from llmops.errors import LlmopsError
        from llmops.govern.champion import review_champion

        try:
            return review_champion(load(get_current_context()["params"]["config"]))
        except LlmopsError as error:
            raise AirflowFailException(str(error)) from error

    review()


llm_governance_review()
