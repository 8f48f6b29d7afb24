"""An Airflow home for processes that read and run the DAG files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("airflow")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "LLMOPS"))}
    return kept | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "LLMOPS_HOME": str(folder / "llmops"),
        "PYTHONPATH": str(ROOT),
    }


def python(code: str, environ: dict[str, str], *arguments: str) -> Any:
    """Run code in a process of its own; return the JSON that it prints after RESULT."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[-1])
