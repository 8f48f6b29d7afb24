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
from llmops.pipeline.tasks import who
from llmops.release import rollout, trials
from llmops.release.registry.registry import registry_of

log = logging.getLogger(__name__)


@task
def start(kind: Any) -> str:
    """Start the trial of the run's `version`; without one, go on with the trial there is, or skip."""
    context = get_current_context()
    asked = context["params"]
    refuse_unknown(asked, context["dag"].params)
    settings = load()
    registry = registry_of(settings)
    if asked["version"]:
        why = f"asked for by the DAG {context['dag'].dag_id}"
        how: dict[str, Any] = {"kind": kind, "by": who(context["dag_run"]), "why": why}
        trial = rollout.start(registry, settings.events, asked["version"], asked["share"], **how).started
    else:
        try:
            trial = rollout.going_on(registry, kind).started
        except RegistryError as error:
            raise AirflowSkipException(str(error)) from error
    trials.ask(registry, trial, requests=asked["requests"], minutes=asked["minutes"])
    return trial


@task.sensor(mode="reschedule", poke_interval=30, timeout=timedelta(days=70).total_seconds())
def wait(trial: str) -> bool:
    """Return whether the trial can be concluded; in between no worker is held. Wait while the database is away, too."""
    settings = load()
    registry = registry_of(settings)
    try:
        return rollout.due(registry, trial, rollout.rules_of(settings, registry, trial))
    except TransientError:
        log.warning("How the trial does is not known now; it is looked again", exc_info=True)
        return False


@task(multiple_outputs=False)
def decide(trial: str) -> dict[str, Any]:
    """Conclude the trial. A version in an A/B test is promoted only if the deployed configuration says so."""
    context, settings = get_current_context(), load()
    promote = context["dag"].dag_id != "llmops_ab_test" or settings.release.ab_promote
    by: dict[str, Any] = {"by": who(context["dag_run"]), "promote": promote}
    registry = registry_of(settings)
    return rollout.conclude(registry, settings.events, trial, rollout.rules_of(settings, registry, trial), **by)
