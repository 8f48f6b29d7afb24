"""Tasks of the DAGs that try a version on callers: start a trial or go on with the one there is, wait, decide."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from llmops.config import load
from llmops.config.run_parameters import refuse_unknown
from llmops.frame.errors import RegistryError, TransientError
from llmops.pipeline.tasks import describe_trigger
from llmops.release import rollout, trials
from llmops.release.registry.registry import registry_of

log = logging.getLogger(__name__)


@task
def start(kind: Any) -> str:
    """Start the trial of the run's `version`; without one, go on with the trial there is, or skip.

    A developer may start runs, but only an admin may end a trial. So a run goes on only with a trial that it or the
    gate started, and changes the conditions of its own trial only. A run after a new version is skipped instead.
    """
    context = get_current_context()
    params = context["params"]
    refuse_unknown(params, context["dag"].params)
    settings = load()
    registry, by = registry_of(settings), describe_trigger(context["dag_run"])
    if params["version"]:
        why = f"asked for by the DAG {context['dag'].dag_id}"
        options: dict[str, Any] = {"kind": kind, "by": by, "why": why, "replace": False}
        trial = rollout.start(registry, settings.events, params["version"], params["share"], **options).started
    else:
        try:
            trial = rollout.get_running(registry, kind).started
        except RegistryError as error:
            raise AirflowSkipException(str(error)) from error
    try:
        trials.set_conditions(registry, trial, by, requests=params["requests"], minutes=params["minutes"])
    except RegistryError as error:
        if context["dag_run"].run_type != "asset_triggered":
            raise
        raise AirflowSkipException(str(error)) from error
    return trial


@task.sensor(mode="reschedule", poke_interval=30, timeout=timedelta(days=70).total_seconds())
def wait(trial: str) -> bool:
    """Return True if the trial can be concluded; in between no worker is held. Wait while the database is down, too."""
    settings = load()
    registry = registry_of(settings)
    try:
        return rollout.is_due(registry, trial, rollout.read_rules(settings, registry, trial))
    except TransientError:
        log.warning("The state of the trial is not known now; the task looks again", exc_info=True)
        return False


@task(multiple_outputs=False)
def decide(trial: str) -> dict[str, Any]:
    """Conclude the trial. A version in an A/B test is promoted only if the deployed configuration says so."""
    context, settings = get_current_context(), load()
    promote = context["dag"].dag_id != "llmops_ab_test" or settings.release.ab_promote
    by: dict[str, Any] = {"by": describe_trigger(context["dag_run"]), "promote": promote}
    registry = registry_of(settings)
    return rollout.conclude(registry, settings.events, trial, rollout.read_rules(settings, registry, trial), **by)
