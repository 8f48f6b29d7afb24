"""A plugin of Airflow's: its scheduler imports what LLMOPS_PRELOAD names, before it forks the processes of tasks.

A task of the local executor is a fork of the scheduler, so it has at once what would take it seconds: a training
imports for ten. Leave LLMOPS_PRELOAD empty on a machine with a GPU: a fork of a process that has asked CUDA for
something cannot use it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


@hookimpl
def on_starting(component: object) -> None:
    """Called where a scheduler, DAG processor or triggerer starts, and in tasks."""
    if sys.argv[1:] == ["scheduler"]:  # a `Job` does not know yet which it is
        for name in os.environ.get("LLMOPS_PRELOAD", "").split():
            import_module(name)


class PreloadAtStart(AirflowPlugin):
    """Named in `airflow plugins`."""

    name = "llmops_preload"
    listeners = [sys.modules[__name__]]
