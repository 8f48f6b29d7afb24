"""A plugin of Airflow's: what starts beside its database makes the pool of what computes, unless it is there.

A task whose pool is not there waits forever, and nobody would know why. How many slots it has is up to whoever runs
Airflow: a pool that is there is left as it is.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from llmops.pipeline.pool import POOL, POOL_DESCRIPTION


@hookimpl
def on_starting(component: object) -> None:
    """Called where a scheduler, DAG processor or triggerer starts (a `Job`), and in tasks, which have no database."""
    if type(component).__name__ != "Job":
        return
    from airflow.models.pool import Pool
    from sqlalchemy.exc import IntegrityError

    if Pool.get_pool(POOL) is None:
        with suppress(IntegrityError):  # another of them has made it meanwhile
            Pool.create_or_update_pool(POOL, 1, POOL_DESCRIPTION, include_deferred=False)


class PoolAtStart(AirflowPlugin):
    """Named in `airflow plugins`."""

    name = "llmops_pool"
    listeners = [sys.modules[__name__]]
