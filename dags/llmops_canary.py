"""
### Try a version on a share of the callers, then promote it or not

Runs when triggered:

    airflow dags trigger llmops_canary --conf '{"version": "v3", "share": 0.1, "minutes": 60}'

Starts the canary, waits without holding a worker until it has answered `requests` requests or `minutes` are over, and
promotes it unless it is worse than the champion. The serving app pulls a canary by itself as soon as it is worse; the
run then ends with the outcome `over`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task


@dag(
    dag_id="llmops_canary",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # a triggered run of a paused DAG waits forever
    params={
        "config": Param("", type="string", description="Path of the YAML configuration; empty: LLMOPS_CONFIG."),
        "version": Param("candidate", type="string", minLength=1, description="Version or alias to try."),
        "share": Param(0.1, type="number", exclusiveMinimum=0, exclusiveMaximum=1, description="Of the callers."),
        "minutes": Param(60, type="number", minimum=1, maximum=10_000, description="Longest the trial takes."),
        "requests": Param(1000, type="integer", minimum=30, description="Requests of the canary that are enough."),
    },
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["llmops"],
    doc_md=__doc__,
)
def llmops_canary() -> None:
    @task
    def start() -> str:
        from airflow.sdk.exceptions import AirflowFailException

        from llmops.config import load
        from llmops.errors import LlmopsError
        from llmops.registry.registry import registry_of
        from llmops.release import rollout

        context = get_current_context()
        asked, run = context["params"], context["dag_run"].run_id
        try:
            settings = load(asked["config"])
            registry = registry_of(settings)
            by = {"by": f"run {run}", "why": "asked for by the DAG llmops_canary"}
            return rollout.start(registry, settings.events, asked["version"], asked["share"], **by).started
        except LlmopsError as error:  # the same at every retry
            raise AirflowFailException(str(error)) from error

    @task.sensor(mode="reschedule", poke_interval=30, timeout=timedelta(days=8).total_seconds())
    def wait(trial: str) -> bool:
        from llmops.config import load
        from llmops.registry.registry import registry_of
        from llmops.release import rollout

        asked = get_current_context()["params"]
        return rollout.due(registry_of(load(asked["config"])), trial, asked["requests"], asked["minutes"])

    @task(multiple_outputs=False)
    def decide(trial: str) -> dict[str, Any]:
        from llmops.config import load
        from llmops.registry.registry import registry_of
        from llmops.release import rollout

        context = get_current_context()
        settings, run = load(context["params"]["config"]), context["dag_run"].run_id
        return rollout.conclude(registry_of(settings), settings.events, trial, by=f"run {run}")

    trial = start()
    wait(trial) >> decide(trial)


llmops_canary()
