"""A real Elasticsearch, from the folder `shared` beside the project, which can be stopped, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest


def shared(name: str) -> Path:
    """A file of the folder `shared` beside the project, or beside a folder that the project is in."""
    for parent in Path(__file__).resolve().parents:
        if (there := parent / "shared" / name).exists():
            return there
    pytest.skip(f"there is no shared/{name} beside the project")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(url: str, within_s: float = 120.0, login: tuple[str, str] | None = None) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + within_s
    while True:
        try:
            if httpx.get(url, auth=login, timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"{url} does not answer"
        time.sleep(0.1)


class EventServer:
    """A server that keeps its data while it is away.

    Args:
        folder: for its data and its log.
        users: name, password and role of each; without any, nobody has to log in.
        roles: a file of roles besides the built-in ones.
    """

    def __init__(self, folder: Path, users: Sequence[tuple[str, str, str]] = (), roles: Path | None = None) -> None:
        self.port, self._log = free_port(), folder / "log"
        self.url, self._login = f"http://127.0.0.1:{self.port}", users[0][:2] if users else None
        self._command = [str(shared("elasticsearch/start")), "--port", str(self.port), "--data", str(folder / "data")]
        self._command += ["--roles", str(roles)] if roles else []
        for user in users:
            self._command += ["--user", ":".join(user)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, start_new_session=True, stdout=log, stderr=log)
        try:
            answers(f"{self.url}/_cluster/health?wait_for_status=yellow", login=self._login)
        except AssertionError:
            self.kill()
            raise AssertionError(self._log.read_text(errors="replace")[-3000:]) from None

    def kill(self) -> None:
        """With -9, as a machine that loses its power."""
        assert self._process
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        assert self._process
        self._process.terminate()
        self._process.wait(60)


@contextmanager
def running(users: Sequence[tuple[str, str, str]] = (), roles: Path | None = None) -> Iterator[EventServer]:
    """A server for the time of a block; what is in it is gone after."""
    with tempfile.TemporaryDirectory(prefix="events-", ignore_cleanup_errors=True) as folder:  # the server may enter it
        os.chmod(folder, 0o755)
        server = EventServer(Path(folder), users, roles)
        server.start()
        try:
            yield server
        finally:
            server.stop()
