"""The proof that the champion answers, against an app that says what a test wants it to say."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmops.access.keys import KeyStore
from llmops.config import Deploy
from llmops.deploy import stage as deploy
from llmops.errors import DeployError
from llmops.registry.registry import Registry

Said = tuple[int, dict[str, Any]]


def publish(home: Path, status: str = "promoted") -> Path:
    """A registry with one version; returns the release artifact."""
    source, release = home / "source", home / "release"
    source.mkdir()
    facts = dict.fromkeys(("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset"), "x")
    facts |= {"status": status, "compared_with": "base", "compress": "t1"}
    Registry(home / "registry", "bot").publish(facts, {"servable": source}, lambda _: {}, by="test", why="test")
    release.mkdir()
    decision = {"version": "v1", "outcome": status, "model": "bot", "registry": str(home / "registry")}
    (release / "decision.json").write_text(json.dumps(decision))
    (home / "out").mkdir()
    return release


def prove(home: Path, **config: Any) -> dict[str, Any]:
    release = publish(home)
    paths = {"home": home, "events": home / "events", "keys": home / "keys.json"}
    deploy.run(Deploy(question="Where?", **{"timeout_s": 2.0, **config}), release=release, **paths, out=home / "out")
    document: dict[str, Any] = json.loads((home / "out" / "deployment.json").read_text())
    return document


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts an app that gives these answers in turn, the last one for ever; returns its URL."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []
    monkeypatch.setenv("LLMOPS_API_KEY", "llmops_key")

    def start(*answers: Said) -> str:
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = left.pop(0) if len(left) > 1 else left[0]
                if self.path != "/generate" or asked != {"prompt": "Where?"}:
                    status, answer = 404, {"detail": "unexpected request"}
                if self.headers["X-API-Key"] != "llmops_key":
                    status, answer = 401, {"detail": "unknown key"}
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


V1: Said = (200, {"response": "Here.", "model_version": "v1"})
OLD: Said = (200, {"response": "There.", "model_version": "v0"})
LOADING: Said = (503, {"detail": "v1 is being loaded"})


def test_the_champion_answers(tmp_path: Path, app: Callable[..., str]) -> None:
    url = app(V1)
    proof = prove(tmp_path, url=url)
    assert proof.pop("seconds") < 2
    assert proof == {"state": "served", "url": url, "version": "v1", "question": "Where?", "answer": "Here."}


def test_it_waits_while_the_old_version_answers_and_the_new_one_loads(tmp_path: Path, app: Callable[..., str]) -> None:
    assert prove(tmp_path, url=app(OLD, LOADING, V1), timeout_s=10)["answer"] == "Here."


@pytest.mark.parametrize(
    ("said", "words"), [(LOADING, "being loaded"), (OLD, "v0"), ((500, {"detail": "boom"}), "boom")]
)
def test_in_the_end_it_says_what_the_app_said(tmp_path: Path, app: Callable[..., str], said: Said, words: str) -> None:
    with pytest.raises(DeployError, match=words):
        prove(tmp_path, url=app(said))
    assert not (tmp_path / "out" / "deployment.json").exists()


def test_a_refusal_is_final(tmp_path: Path, app: Callable[..., str]) -> None:
    with pytest.raises(DeployError, match="may not"):
        prove(tmp_path, url=app((403, {"detail": "this role may not generate"})), timeout_s=600)


def test_an_app_that_is_not_there(tmp_path: Path, app: Callable[..., str]) -> None:
    with pytest.raises(DeployError, match="127.0.0.1:9"):
        prove(tmp_path, url="http://127.0.0.1:9", timeout_s=1)


def test_a_url_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMOPS_API_KEY", raising=False)
    with pytest.raises(DeployError, match="LLMOPS_API_KEY"):
        prove(tmp_path, url="http://127.0.0.1:9")


def test_without_a_champion_nothing_is_deployed(tmp_path: Path) -> None:
    release = publish(tmp_path, "rejected")
    paths = {"home": tmp_path, "events": tmp_path / "events", "keys": tmp_path / "keys.json"}
    metrics = deploy.run(Deploy(), release=release, **paths, out=tmp_path / "out")
    assert metrics == json.loads((tmp_path / "out" / "deployment.json").read_text()) == {"state": "no champion"}


APP = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
sys.path.insert(0, {root!r})
from llmops.config import load
from llmops.access.keys import KeyStore
config = load()
Path({pid!r}).write_text(str(os.getpid()))
print("starting", config.release.name, flush=True)
if {dies}: sys.exit(3)
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        KeyStore(config.keys).check(self.headers["X-API-Key"])
        body = json.dumps({{"response": "Mine.", "model_version": "v1"}}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
HTTPServer((config.serving.host, config.serving.port), Handler).serve_forever()
"""


@pytest.fixture
def own_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Lets `python -m serving` be a small app that reads the same configuration; returns the file with its pid."""

    def install(dies: bool = False) -> Path:
        script, pid = tmp_path / "python", tmp_path / "pid"
        root = str(Path(deploy.__file__).parents[2])
        script.write_text(APP.format(python=sys.executable, root=root, pid=str(pid), dies=dies))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(deploy.sys, "executable", str(script))
        return pid

    return install


def gone(pid: Path) -> bool:
    try:
        os.kill(int(pid.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_an_app_is_started_for_the_proof_and_nothing_of_it_stays(tmp_path: Path, own_app: Callable[..., Path]) -> None:
    pid = own_app()
    proof = prove(tmp_path, timeout_s=60)
    assert (proof["version"], proof["answer"]) == ("v1", "Mine.")
    assert gone(pid)
    (key,) = KeyStore(tmp_path / "keys.json").list()
    assert (key.role, bool(key.revoked)) == ("user", True)
    assert "llmops_" not in (tmp_path / "out" / "serving.log").read_text()


def test_an_app_that_dies_is_an_error_with_its_log(tmp_path: Path, own_app: Callable[..., Path]) -> None:
    pid = own_app(dies=True)
    with pytest.raises(DeployError, match="starting bot"):
        prove(tmp_path, timeout_s=60)
    assert gone(pid)
    assert KeyStore(tmp_path / "keys.json").list()[0].revoked
