"""Airflow's pool for heavy tasks: they need the accelerator or all cores, so only one of them runs at a time.

Without the pool a triggered run, a scheduled one and a backfill could train at once: Airflow limits a backfill's runs
separately.
"""

POOL = "llmops_compute"
POOL_DESCRIPTION = "Tasks that need the accelerator or all cores; one slot per accelerator"
