"""`make bench` with scripts that do well, fail, say nothing and hang."""

import json
import os
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
FAILED = ["broken", "late", "killed"]


@pytest.fixture
def run_all(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("run_all")


def write(folder: Path, name: str, code: str) -> Path:
    (path := folder / f"{name}.py").write_text(code.format(name=name, rest=repr(OBJECT)))
    return path


def test_make_bench_runs_all_that_tell_figures(run_all: ModuleType) -> None:
    scripts = Path(run_all.__file__).parent.glob("*.py")
    assert sorted(run_all.NAMES) == sorted(p.stem for p in scripts if "finish(told" in p.read_text(encoding="utf-8"))


def test_one_that_fails_stops_no_other(run_all: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = [
        write(tmp_path, "broken", "print('half a table')\nraise ValueError('the peer is gone')"),
        write(tmp_path, "late", GOOD + "sys.exit(3)"),
        write(
            tmp_path, "killed", "import os, signal\nprint('working', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
        ),
        write(tmp_path, "last", GOOD),
    ]
    assert run_all.run_all(scripts, tmp_path) == FAILED
    output = capsys.readouterr().out
    assert "broken FAILED" in output and "the peer is gone" in output
    kept = json.loads((tmp_path / "benchmarks.json").read_text())
    assert {name for runs in kept.values() for name, run in runs.items() if "error" in run} == set(FAILED)
    assert any("SIGKILL" in run.get("error", "") for runs in kept.values() for run in runs.values())
    assert set(kept["CPU, 2 cores, 8 GiB"]) == {"last"}
    text = (tmp_path / "benchmarks.md").read_text()
    assert "Title of last." in text and "the peer is gone" in text and "in full" not in text.partition("## last")[2]
    whole = write(tmp_path, "last", GOOD.replace('"--quick", ', ""))
    assert run_all.run_all([whole], tmp_path, options=()) == []
    assert "in full" in (tmp_path / "benchmarks.md").read_text().partition("## last")[2]


def test_one_that_hangs_is_stopped_with_what_it_started(run_all: ModuleType, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = f"import signal; held = open({str(pipe)!r}, 'w'); signal.pause()"
    hang = f'import subprocess, sys\nsubprocess.run([sys.executable, "-c", """{code}"""])'
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as held:
        assert run_all.run_all([write(tmp_path, "hangs", hang)], tmp_path, limit_s=1) == ["hangs"]
        os.set_blocking(held.fileno(), True)
        assert held.read() == b""  # nobody has it open any more
    (runs,) = json.loads((tmp_path / "benchmarks.json").read_text()).values()
    assert "1 s" in runs["hangs"]["error"]
