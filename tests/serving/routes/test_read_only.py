"""Admin's changes where files can only be read, as in a pod that mounts the registry read-only."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.release.registry.registry import registry_of
from llmops.state.database import database_of
from tests.release.conftest import put_version

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
from fastapi.testclient import TestClient
from llmops.config import Config
from serving.app import create_app
from tests.serving.echo import EchoEngine

with TestClient(create_app(Config(**json.loads(sys.argv[1])), lambda version: EchoEngine())) as client:
    client.headers["X-API-Key"] = sys.argv[2]
    def ask(path, body=None, method="POST"):
        answer = client.request(method, f"/admin/{path}", json=body)
        print(path.split("/")[-1], answer.status_code, json.dumps(answer.json()))
        return answer.json()

    ask("promote", {"version": "v2"})
    ask("rollback")
    ask("canary", {"version": "v2", "share": 0.1})
    key = ask("keys", {"role": "user", "owner": "somebody"}).get("prefix", sys.argv[2].split("_")[1])
    ask(f"keys/{key}/rotate")
    ask(f"keys/{key}", method="DELETE")
    print("ready", client.get("/readyz").status_code, "{}")
"""


def change_everything(tmp_path: Path, url: str, read_only: Callable[[Path], None]) -> list[tuple[int, Any]]:
    """Return status and body of each change by an admin, and the status of `/readyz`, after `read_only` was called."""
    config = Config(home=tmp_path / "home", release={"registry": tmp_path / "models"}, state={"url": url})
    registry = registry_of(config)
    for name in ("v1", "v2"):
        put_version(config, name)
        registry.decide(name, "gate", "promoted", by="a test", why="passed")
    registry.promote("v1")
    key, _ = keys_of(config).create("admin", "somebody")
    read_only(tmp_path)
    command = [sys.executable, "-c", SCRIPT, config.model_dump_json(), key]
    if os.getuid() == 0:  # who may write whatever is there
        setpriv = shutil.which("setpriv") or pytest.skip("setpriv is missing (util-linux)")
        command = [setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    with database_of(config).read():  # else SQLite's log would be removed, and nothing could be read
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    return [(int(status), json.loads(body)) for _, status, body in lines]


def forbid_writing(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.service
def test_with_a_shared_database_the_registry_need_not_be_written(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    *changes, (ready, _) = change_everything(tmp_path, postgresql(), lambda path: forbid_writing(path / "models"))
    assert ([status for status, _ in changes], ready) == ([200, 200, 200, 201, 200, 200], 200)
    assert [body["aliases"]["champion"] for _, body in changes[:3]] == ["v2", "v1", "v1"]


def test_a_database_that_can_only_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    url = f"sqlite:///{tmp_path / 'state' / 'state.db'}"
    *changes, (ready, _) = change_everything(tmp_path, url, lambda path: forbid_writing(path / "state"))
    assert {(status, body["code"]) for status, body in changes} == {(409, "state_read_only")} and ready == 200
    assert all("state.url" in body["detail"] and str(tmp_path) not in body["detail"] for _, body in changes)
