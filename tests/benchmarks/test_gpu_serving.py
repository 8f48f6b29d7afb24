"""The benchmark of serving on a GPU, with a model of two layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_serving.py"


@pytest.mark.gpu
@pytest.mark.timeout(3600)
def test_every_form_is_measured_by_both_engines() -> None:
    command = [sys.executable, SCRIPT, "--quick", "--json", "--layers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["failed"] and found["machine"]["gpu"]
    assert {arm.rpartition(",")[0] for arm in found["arms"]} == {
        *(f"({arm}) {engine}, {form}" for arm, engine in (("v", "vllm"), ("t", "transformers"))
          for form in ("bf16", "nf4", "fp8")),
        "(d) vllm serve, bf16",
    }  # fmt: skip
    assert all(figures["tokens/s"] > 0 and figures["GPU MiB"] > 0 for figures in found["arms"].values())
