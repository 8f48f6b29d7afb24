"""Start and stop of the demo's services on this machine: Airflow standalone and the serving app, on loopback.

Each runs in its own session, so that Ctrl-C in the terminal does not reach it and `stop()` finds all its processes,
including orphans. `<home>/run/` lists the running services, `<home>/logs/` has their output.

    python -m llmops.pipeline.stack stop
"""

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from llmops import ROOT
from llmops.access.roles import AIRFLOW_ROLES
from llmops.config import Config, load
from llmops.frame.artifacts import write_json
from llmops.frame.errors import LlmopsError
from llmops.frame.machine import shorten_thread_spin
from llmops.frame.printable import configure_logging

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
GRACE_S = 10.0  #: time for processes to end after SIGTERM
KILL_S = 10.0  #: the same after SIGKILL: freeing gigabytes takes the kernel some time
#: Airflow's setting that new DAGs are paused; the environment may set it
PAUSED_VARIABLE = "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"


class StackError(LlmopsError):
    """A service does not start or stop."""


@dataclass(frozen=True, slots=True)
class Service:
    """A started service: the content of `<home>/run/<name>.json`."""

    name: str
    pid: int  #: of its first process, and therefore the id of its session
    started: float  #: creation time of that process, seconds since the epoch; distinguishes a reused pid
    port: int

    @property
    def url(self) -> str:
        """Return the service's address."""
        return f"http://{HOST}:{self.port}"


def start_airflow(config: Config, port: int, environ: Mapping[str, str]) -> Service:
    """Start `airflow standalone` unless it is running, and wait until it schedules.

    Raises:
        StackError: with the end of the log, if it does not start.
    """
    ensure_passwords(config.home)
    command = [sys.executable, "-m", "airflow", "standalone"]
    service = _start_service(config.home, "airflow", command, port, build_airflow_environment(config, port, environ))
    _wait_until_ready(config.home, service, _airflow_is_ready, timeout_s=240)
    return service


def start_serving(config: Config, environ: Mapping[str, str]) -> Service:
    """Start the serving app unless it is running, and wait until it answers. It may still have no model.

    Raises:
        StackError: with the end of the log, if it does not start.
    """
    where = {**environ, "LLMOPS_HOME": str(config.home), "LLMOPS_SERVING__PORT": str(config.serving.port)}
    service = _start_service(config.home, "serving", [sys.executable, "-m", "serving"], config.serving.port, where)
    _wait_until_ready(config.home, service, lambda s: _is_answering(f"{s.url}/healthz"), timeout_s=120)
    return service


def find_running(home: Path) -> dict[str, Service]:
    """Return the services started from `home` that have a living process, by name."""
    found: dict[str, Service] = {}
    for file in sorted((home / "run").glob("*.json")):
        service = Service(**json.loads(file.read_text(encoding="utf-8")))
        if _list_processes(service):
            found[service.name] = service
    return found


def stop(home: Path, names: Sequence[str] = ("airflow", "serving")) -> list[str]:
    """Stop services with all their processes, and return the names of those that were running.

    Raises:
        StackError: if a process remains.
    """
    services = {name: service for name, service in find_running(home).items() if name in names}
    for name, service in services.items():
        for sign, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, KILL_S)):
            deadline = time.monotonic() + seconds
            while (left := _list_processes(service)) and time.monotonic() < deadline:
                for process in left:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(sign)
                psutil.wait_procs(left, timeout=0.5)
        if left := _list_processes(service):
            pids = " ".join(str(process.pid) for process in left)
            raise StackError(f"Processes of {name} do not end: {pids}. End them with `kill -9 {pids}`.")
        log.info("stopped %s", name)
    for name in names:
        (home / "run" / f"{name}.json").unlink(missing_ok=True)
    return list(services)


def has_passwords(home: Path) -> bool:
    """Return True if this home has passwords of Airflow's users."""
    return (home / "airflow" / "passwords.json").is_file()


def ensure_passwords(home: Path) -> tuple[dict[str, str], bool]:
    """Return the Airflow users' passwords, and True if they are new. Only its owner can read their file."""
    file = home / "airflow" / "passwords.json"
    if has_passwords(home):
        return dict(json.loads(file.read_text(encoding="utf-8"))), False
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = {str(role): secrets.token_urlsafe(12) for role in AIRFLOW_ROLES}
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        json.dump(made, handle)
    return made, True


def build_airflow_environment(config: Config, port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with the settings that run Airflow from `config.home` on this machine only."""
    home = config.home / "airflow"
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    return {
        PAUSED_VARIABLE: "False",
        # SQLite allows one writer: a command may wait for the scheduler longer than the default of 5 s
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home.absolute()}/airflow.db?timeout=60",
        **environ,
        "PATH": path,  # standalone starts its parts as `airflow …`
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")])),
        "LLMOPS_HOME": str(config.home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),  # creates the DAGs' pool at the start
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",  # the default forks 32 workers, each with all of Airflow in memory
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in AIRFLOW_ROLES.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(config.home / "logs" / "tasks"),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # During training on all cores the API server answers late; that must not kill the task.
        "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "20",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    }


def _start_service(home: Path, name: str, command: list[str], port: int, environ: Mapping[str, str]) -> Service:
    if service := find_running(home).get(name):
        log.info("%s runs already at %s", name, service.url)
        return service
    output = home / "logs" / f"{name}.log"
    for folder in (output.parent, home / "run"):
        folder.mkdir(parents=True, exist_ok=True)
    environment = dict(environ)
    shorten_thread_spin(environment)
    with output.open("ab") as handle:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(name, process.pid, psutil.Process(process.pid).create_time(), port)
    write_json(home / "run" / f"{name}.json", asdict(service))
    log.info("started %s (log: %s)", name, output)
    return service


def _wait_until_ready(home: Path, service: Service, ready: Callable[[Service], bool], timeout_s: float) -> None:
    output, deadline = home / "logs" / f"{service.name}.log", time.monotonic() + timeout_s
    while not ready(service):
        if not _is_alive(service):
            stop(home, [service.name])
            raise StackError(f"{service.name} ended while starting. The end of {output}:\n{_read_tail(output)}")
        if time.monotonic() > deadline:
            stop(home, [service.name])
            raise StackError(
                f"{service.name} did not come up in {timeout_s:.0f} s. The end of {output}:\n{_read_tail(output)}"
            )
        time.sleep(0.5)
    log.info("%s is up at %s", service.name, service.url)


def _airflow_is_ready(service: Service) -> bool:
    try:
        answer = httpx.get(f"{service.url}/api/v2/monitor/health", timeout=10)
    except httpx.TransportError:
        return False
    if answer.status_code != 200:
        return False
    parts = answer.json()
    return all(parts[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def _is_answering(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _is_alive(service: Service) -> bool:
    try:
        process = psutil.Process(service.pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() == service.started
    except psutil.NoSuchProcess:
        return False


def _list_processes(service: Service) -> list[psutil.Process]:
    """Return all living processes of the service's session, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != service.pid or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.create_time() < service.started - 1 or (process.pid == service.pid and not _is_alive(service)):
                continue
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
        found.append(process)
    return found


def _read_tail(file: Path, lines: int = 15) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def main(arguments: Sequence[str]) -> int:
    """Stop (`stop`) or list (`status`) the services of the configured home, and return the exit status."""
    configure_logging("%(message)s")
    if list(arguments) not in (["stop"], ["status"]):
        sys.stderr.write("usage: python -m llmops.pipeline.stack stop|status\n")
        return 2
    home = load().home
    try:
        if arguments[0] == "stop":
            sys.stdout.write(f"stopped: {', '.join(stop(home)) or 'nothing was running'}\n")
        else:
            for service in find_running(home).values():
                sys.stdout.write(f"{service.name:<8} {service.url}  pid {service.pid}\n")
    except LlmopsError as error:
        sys.stderr.write(f"stack: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
