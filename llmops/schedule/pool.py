"""The pool of what computes: its tasks need the accelerator or all cores, so one runs at a time, whoever started it.

A run that was triggered, a scheduled one and a backfill would otherwise train at once: Airflow counts a backfill's runs
apart from the others.
"""

POOL = "llmops_compute"
POOL_DESCRIPTION = "Tasks that need the accelerator or all cores; one slot per accelerator"
