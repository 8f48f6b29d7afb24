"""guidellm measures the app unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def test_guidellm_measures_it(served: dict[str, str], tiny_base: Path, tmp_path: Path) -> None:
    program = shutil.which("guidellm")
    if not program:
        pytest.skip("guidellm is not installed; docs/serving.md says how it is, in an environment of its own")
    target, report = served["base_url"].removesuffix("/v1"), tmp_path / "report.json"
    for route in ("chat/completions", "completions"):
        backend = f"kind=openai_http,target={target},api_key={served['api_key']},validate_backend=false"
        options = [
            *("--backend", f"{backend},request_format=/v1/{route}"),
            *("--tokenizer", f"kind=huggingface_auto,model={tiny_base}"),
            *("--data", "kind=synthetic_text,prompt_tokens=30,output_tokens=20"),
            *("--profile", "kind=concurrent,streams=4", "--constraint", "kind=max_requests,count=8"),
            *("--output", f"kind=json,path={report}", "--disable-console"),
        ]
        subprocess.run([program, "run", *options], check=True, timeout=300, env={**os.environ, "PYTHONPATH": ""})
        (found,) = json.loads(report.read_text())["benchmarks"]
        asked = found["requests"]
        assert (len(asked["successful"]), asked["errored"]) == (8, [])
        assert [one["output_metrics"]["text_tokens"] for one in asked["successful"]] == [20] * 8
