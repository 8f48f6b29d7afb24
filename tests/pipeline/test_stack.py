"""Starting and stopping services: all of a service's processes end, also the orphaned and the stubborn."""

import json
import os
import runpy
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from llmops.access.roles import AIRFLOW_ROLES
from llmops.config import load
from llmops.pipeline import stack
from llmops.pipeline.orchestrator import ANSWER_S
from tests.clock import wait_until

# starts a child in a process group of its own that ignores SIGTERM, and an orphan; then waits
FAMILY = """
import os, signal, subprocess, sys, time
code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setpgid(0, 0); signal.pause()"
subprocess.Popen([sys.executable, "-c", code])
if os.fork() == 0:
    os.fork() == 0 and signal.pause()
    os._exit(0)
signal.pause()
"""


WAITING = "import signal; signal.pause()"


def start_service(home: Path, code: str) -> stack.Service:
    return stack._start_service(home, "airflow", [sys.executable, "-c", code], 1, os.environ)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "GRACE_S", 1.0)


def test_stop_ends_orphans_and_the_stubborn_and_says_what_it_stopped(tmp_path: Path) -> None:
    service = start_service(tmp_path, FAMILY)
    members = wait_until(lambda: len(found := stack._list_processes(service)) == 3 and found, "the family")
    assert stack.find_running(tmp_path) == {"airflow": service}
    assert stack.stop(tmp_path) == ["airflow"]
    gone = [p for p in members if not p.is_running() or p.status() == psutil.STATUS_ZOMBIE]
    assert len(gone) == 3
    assert stack.find_running(tmp_path) == {} and stack.stop(tmp_path) == []


def test_starting_again_finds_what_runs(tmp_path: Path) -> None:
    service = start_service(tmp_path, WAITING)
    try:
        assert start_service(tmp_path, "raise SystemExit('a second one')") == service
    finally:
        stack.stop(tmp_path)


def test_a_later_process_of_the_same_id_is_left_alone(tmp_path: Path) -> None:
    other = start_service(tmp_path / "other", WAITING)
    try:
        (tmp_path / "run").mkdir()
        entry = {"name": "airflow", "pid": other.pid, "started": other.started - 3600, "port": 1}
        (tmp_path / "run" / "airflow.json").write_text(json.dumps(entry))
        assert stack.stop(tmp_path) == []
        assert psutil.pid_exists(other.pid)
    finally:
        stack.stop(tmp_path / "other")


def test_a_service_that_dies_while_starting_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    service = start_service(tmp_path, "print('the reason'); raise SystemExit(3)")
    with pytest.raises(stack.StackError, match="the reason"):
        stack._wait_until_ready(tmp_path, service, lambda s: False, timeout_s=50)


def test_a_service_that_never_answers_is_stopped(tmp_path: Path) -> None:
    service = start_service(tmp_path, WAITING)
    with pytest.raises(stack.StackError, match="did not come up"):
        stack._wait_until_ready(tmp_path, service, lambda s: False, timeout_s=0.5)
    assert stack._list_processes(service) == []


def test_passwords_are_made_once_for_every_role_and_for_the_owners_eyes(tmp_path: Path) -> None:
    made, new = stack.ensure_passwords(tmp_path)
    assert new and set(made) == set(AIRFLOW_ROLES) and len(set(made.values())) == len(made)
    assert stack.ensure_passwords(tmp_path) == (made, False)
    assert stat.S_IMODE((tmp_path / "airflow" / "passwords.json").stat().st_mode) == 0o600


def test_airflow_listens_on_loopback_with_the_roles_of_the_table_and_no_password_around(tmp_path: Path) -> None:
    config = load(environ={"LLMOPS_HOME": str(tmp_path)})
    made, _ = stack.ensure_passwords(tmp_path)
    environ = stack.build_airflow_environment(config, 8123, {"PATH": "/bin", "LLMOPS_CONFIG": "x.yaml"})
    assert environ["AIRFLOW__API__HOST"] == "127.0.0.1" and environ["AIRFLOW__API__PORT"] == "8123"
    assert environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] == "developer:user,admin:admin"
    assert environ["LLMOPS_CONFIG"] == "x.yaml" and environ["PATH"].endswith("/bin")
    assert not set(made.values()) & set(environ.values())
    _, _, waits_s = environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("?timeout=")
    assert 60 <= float(waits_s) < ANSWER_S  # a command waits for the scheduler's write; a client gets the reason
    assert environ[stack.PAUSED_VARIABLE] == "False"
    assert (
        stack.build_airflow_environment(config, 8123, {stack.PAUSED_VARIABLE: "True"})[stack.PAUSED_VARIABLE] == "True"
    )


def test_a_backfill_that_has_read_takes_the_right_to_write_and_waits_for_the_schedulers_write(tmp_path: Path) -> None:
    environ = stack.build_airflow_environment(load(environ={"LLMOPS_HOME": str(tmp_path)}), 8123, {})
    plugin = f"{environ['AIRFLOW__CORE__PLUGINS_FOLDER']}/airflow_local_settings.py"
    listeners = runpy.run_path(plugin)
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'airflow.db'}")
    try:
        with engine.connect() as backfill, backfill.begin_nested():
            backfill.execute(sa.text("SELECT 1")).all()
            scheduler = sqlite3.connect(tmp_path / "airflow.db", timeout=0)
            with closing(scheduler), pytest.raises(sqlite3.OperationalError, match="locked"):
                scheduler.execute("CREATE TABLE runs (id TEXT)")
    finally:
        sa.event.remove(sa.Engine, "savepoint", listeners["begin_to_write"])
        sa.event.remove(Session, "before_flush", listeners["hand_over_audit_log"])
        engine.dispose()


@pytest.mark.service
def test_the_serving_app_comes_up_without_a_model_and_goes(tmp_path: Path, free_port: int) -> None:
    config = load(environ={"LLMOPS_HOME": str(tmp_path), "LLMOPS_SERVING__PORT": str(free_port)})
    service = stack.start_serving(config, os.environ)
    try:
        assert service.url.endswith(str(free_port))
    finally:
        assert stack.stop(tmp_path) == ["serving"]
