"""`make bench` with scripts that do well, fail, say nothing and hang."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

OBJECT = {"machine": {"processor": "CPU", "cores": 2, "memory_gib": 8, "gpu": "", "versions": {}}, "failed": {}}
GOOD = '''"""Title of {name}."""
import json, sys
assert sys.argv[1:] == ["--quick", "--json"]
print("a table")
print(json.dumps({{"name": "{name}", "arms": {{"ours": {{"s": 1.0}}}}, "ratios": {{"faster": 2.0}}, **{rest}}}))
print("a late warning", file=sys.stderr)
'''
FAILED = ["broken", "mute", "late", "killed"]


@pytest.fixture
def run_all(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("run_all")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def one(name: str, code: str) -> Path:
        (path := tmp_path / f"{name}.py").write_text(code.format(name=name, rest=repr(OBJECT)))
        return path

    return one


def test_one_that_fails_is_named_and_the_rest_goes_on(
    run_all: ModuleType, write: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = [
        write("first", GOOD),
        write("broken", "print('half a table')\nraise ValueError('the peer is gone')"),
        write("mute", "print('done')"),
        write("late", GOOD + "sys.exit(3)"),
        write("killed", "import os, signal\nprint('working', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"),
        write("last", GOOD),
    ]
    assert run_all.run_all(scripts, tmp_path) == FAILED
    output = capsys.readouterr().out
    assert "broken FAILED" in output and "the peer is gone" in output
    kept = json.loads((tmp_path / "benchmarks.json").read_text())
    assert {name for runs in kept.values() for name, run in runs.items() if "error" in run} == set(FAILED)
    assert any("SIGKILL" in run.get("error", "") for runs in kept.values() for run in runs.values())
    assert set(kept["CPU, 2 cores, 8 GiB"]) == {"first", "last"}
    text = (tmp_path / "benchmarks.md").read_text()
    assert "Title of last." in text and "the peer is gone" in text


def test_one_that_needs_a_gpu_is_told_of_where_there_is_none(
    run_all: ModuleType, write: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpu, said in (("", "Not measured: there is no CUDA device here"), ("NVIDIA T4", "faster")):
        monkeypatch.setattr(run_all, "machine", lambda gpu=gpu: {**OBJECT["machine"], "gpu": gpu})
        assert run_all.run_all([write("gpu_serving", GOOD)], tmp_path) == []
        assert said in (tmp_path / "benchmarks.md").read_text()


def test_one_that_hangs_is_stopped_with_what_it_started(
    run_all: ModuleType, write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    hang = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    begun = time.monotonic()
    assert run_all.run_all([write("hangs", hang), write("last", GOOD)], tmp_path, limit_s=5) == ["hangs"]
    assert time.monotonic() - begun < 120
    runs = [run for runs in json.loads((tmp_path / "benchmarks.json").read_text()).values() for run in runs.items()]
    assert "5 s" in dict(runs)["hangs"]["error"] and "error" not in dict(runs)["last"]
