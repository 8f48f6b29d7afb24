"""The checks before any work starts: what is missing is named with its remedy."""

import ast
import json
import os
import socket
import subprocess
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmops.config import load
from llmops.frame import doctor
from llmops.frame.doctor import GIB, Check, check_machine, check_needs, format_checks, get_available_memory

ROOT = Path(__file__).parents[2]


def make_java(folder: Path, script: str) -> Path:
    """A JAVA_HOME whose `java` answers as told."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


def get_only(checks: list[Check]) -> Check:
    assert len(checks) == 1
    return checks[0]


def check_python(monkeypatch: pytest.MonkeyPatch, *version: int, ensurepip: bool = True) -> Check:
    """What the doctor says when this version runs it, outside of an environment."""
    spec = ModuleSpec("ensurepip", None) if ensurepip else None
    found = SimpleNamespace(
        version_info=(*version, "final", 0), executable="/usr/bin/python3", prefix="/usr", base_prefix="/usr"
    )
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "sys", found)
        patch.setattr(doctor.importlib.util, "find_spec", lambda name: spec)
        return get_only(check_needs(Path(), ["python"], {}))


@pytest.mark.parametrize(
    ("version", "ok"),
    [((3, 9, 18), False), ((3, 11, 4), False), ((3, 11, 5), True), ((3, 13, 99), True), ((3, 14, 0), False)],
)
def test_python_is_3_11_5_to_3_13(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], ok: bool) -> None:
    found = check_python(monkeypatch, *version)
    assert found.ok is ok
    assert ".".join(map(str, version)) in found.detail and "/usr/bin/python3" in found.detail
    assert "make PYTHON=" in found.remedy or ok
    bare = check_python(monkeypatch, *version, ensurepip=False)  # as Debian's without its package
    assert not bare.ok and ("python3.13-venv" in bare.remedy) is (version[:2] == (3, 13))


def test_what_is_let_in_is_what_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest, above = (".".join(map(str, version)) for version in (doctor.MIN_PYTHON, doctor.UNSUPPORTED_PYTHON))
    assert project["requires-python"] == f">={oldest},<{above}"


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("echo 'openjdk version \"17.0.21\"' >&2", "17 at "),
        ("echo 'openjdk version \"1.8.0_402\"' >&2", "is version 8"),
        ('[ "$1" = -version ] || exit 1\necho \'openjdk version "21"\' >&2', "jdk.incubator.vector"),
        ("echo cannot load >&2; exit 1", "cannot load"),
    ],
)
def test_java_must_be_17_or_newer_with_the_vector_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, detail: str
) -> None:
    assert "no java on the PATH" in doctor.check_java({"PATH": str(tmp_path)}).detail
    assert "JAVA_HOME is" in doctor.check_java({"JAVA_HOME": str(tmp_path)}).detail
    found = doctor.check_java({"JAVA_HOME": str(make_java(tmp_path, script))})
    assert detail in found.detail and found.ok is (detail == "17 at ")
    assert "default-jre-headless" in found.remedy or found.ok
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert get_only(check_needs(tmp_path, ["java"], {})) == found


def test_a_busy_port_is_named_with_the_variable_that_moves_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = get_only(check_needs(tmp_path, ["ports"], {"LLMOPS_AIRFLOW_PORT": port}))
        assert not found.ok and str(port) in found.name and f"LLMOPS_AIRFLOW_PORT={port + 1}" in found.remedy
        (tmp_path / "run").mkdir()
        entry = {"name": "airflow", "pid": os.getpid(), "started": 0.0, "port": port}
        (tmp_path / "run" / "airflow.json").write_text(json.dumps(entry))
        assert get_only(check_needs(tmp_path, ["ports"], {"LLMOPS_AIRFLOW_PORT": port})).ok
    assert get_only(check_needs(tmp_path, ["ports"], {"LLMOPS_AIRFLOW_PORT": port})).ok


def test_memory_is_what_the_machine_and_the_container_leave(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 33554432 kB\nMemAvailable:   16777216 kB\n")
    assert get_available_memory(tmp_path) == 16 * GIB
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.current").write_text(f"{1 * GIB}\n")
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert get_available_memory(tmp_path) == 16 * GIB
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{4 * GIB}\n")
    assert get_available_memory(tmp_path) == 3 * GIB


def test_too_little_disk_or_memory_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_GIB", 1e9)
    monkeypatch.setattr(doctor, "MEMORY_GIB", 1e9)
    checks = check_needs(tmp_path / "not" / "there" / "yet", ["disk", "memory"], {})
    assert [c.ok for c in checks] == [False, False]
    assert "LLMOPS_HOME" in checks[0].remedy
    text = format_checks([*checks, Check("a", True, "fine", "never")])
    assert "LLMOPS_HOME" in text and "never" not in text
    config = load(environ={"LLMOPS_HOME": str(tmp_path), "LLMOPS_SERVING__PORT": "48123"})
    assert "port 48123" in [c.name for c in check_machine(config, ["ports"])]


def test_it_runs_alone_on_the_standard_library(tmp_path: Path) -> None:
    """As `make` runs it, before anything is installed: isolated, without site packages."""
    command = [sys.executable, "-I", "-S", str(ROOT / "llmops" / "frame" / "doctor.py")]
    ast.parse(
        (ROOT / "llmops" / "frame" / "doctor.py").read_text(encoding="utf-8"), feature_version=(3, 8)
    )  # by an old Python
    done = subprocess.run([*command, "python", "disk"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["Python:", "disk:"]
    assert subprocess.run([*command, "packages"], cwd=tmp_path, capture_output=True).returncode == 1
    assert subprocess.run([*command, "cat"], cwd=tmp_path, capture_output=True).returncode == 2
