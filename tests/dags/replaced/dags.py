"""Our DAG files as they are, their stages replaced. Airflow looks for the words dag and airflow in this file."""

import importlib.util
from datetime import timedelta
from pathlib import Path

import stand_ins

from llmops.pipeline import tasks

stand_ins.replace()
tasks.DEFAULT_ARGS |= {"retries": 1, "retry_delay": timedelta(seconds=1)}
for name in ("llmops_pipeline", "llm_governance_review"):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[3] / "dags" / f"{name}.py")
    assert spec and spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
