"""The proof that the champion answers, against an app that says what a test wants it to say."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmops.access.keys import KeyStore
from llmops.config import Deploy
from llmops.deploy import stage as deploy
from llmops.errors import DeployError
from llmops.registry.registry import Registry
from llmops.state.database import database_at

Said = tuple[int, dict[str, Any]]


def url(home: Path) -> str:
    return f"sqlite:///{home / 'state.db'}"


def publish(home: Path, status: str = "promoted") -> Path:
    """A registry with one version; returns the release artifact."""
    source, release = home / "source", home / "release"
    source.mkdir()
    facts = dict.fromkeys(("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset"), "x")
    facts |= {"status": status, "compared_with": "base", "compress": "t1"}
    Registry(home / "registry", "bot", database_at(url(home))).publish(
        facts, {"servable": source}, lambda _: {}, by="test", why="test"
    )
    release.mkdir()
    decision = {"version": "v1", "outcome": status, "model": "bot"}
    (release / "decision.json").write_text(json.dumps(decision))
    (home / "out").mkdir()
    return release


def prove(home: Path, **config: Any) -> dict[str, Any]:
    release = publish(home)
    paths = {"home": home, "events": home / "events", "registry": home / "registry", "database": url(home)}
    deploy.run(Deploy(question="Where?", **{"timeout_s": 2.0, **config}), release=release, **paths, out=home / "out")
    document: dict[str, Any] = json.loads((home / "out" / "deployment.json").read_text())
    return document


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Starts an app that gives these answers in turn, and is ready in these ways, the last one for ever.

    Returns its URL. Each answer that it gave is in `app.given`.
    """
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []
    monkeypatch.setenv("LLMOPS_API_KEY", "llmops_key")

    given: list[Said] = []

    def start(*answers: Said, ready: Sequence[Said] = ((200, {"status": "ready", "model_version": "v1"}),)) -> str:
        left, states = list(answers), list(ready)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = states.pop(0) if len(states) > 1 else states[0]
                self.say(*((status, answer) if self.path == "/readyz" else (404, {"detail": "unexpected request"})))

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = left.pop(0) if len(left) > 1 else left[0]
                if self.path != "/generate" or asked != {"prompt": "Where?", "ground": False}:
                    status, answer = 404, {"detail": "unexpected request"}
                if self.headers["X-LLMOps-Side"] != "champion":
                    status, answer = 200, {"response": "Perhaps.", "model_version": "the canary"}
                if self.headers["X-API-Key"] != "llmops_key":
                    status, answer = 401, {"detail": "unknown key"}
                given.append((status, answer))
                self.say(status, answer)

            def say(self, status: int, answer: dict[str, Any]) -> None:
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

    start.given = given  # type: ignore[attr-defined]
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


def test_it_asks_again_when_a_replica_that_is_not_so_far_answers(tmp_path: Path, app: Callable[..., str]) -> None:
    assert prove(tmp_path, url=app(OLD, LOADING, V1), timeout_s=10)["answer"] == "Here."


def test_while_the_old_version_answers_or_the_new_one_loads_nothing_is_asked(tmp_path: Path, app: Any) -> None:
    old = (200, {"status": "ready", "model_version": "v0", "detail": "v1 is being loaded"})
    nothing = (503, {"status": "not ready", "model_version": None, "detail": "v1 is being loaded"})
    ready = (200, {"status": "ready", "model_version": "v1"})
    going = (503, {"status": "not ready", "model_version": "v1", "detail": "It is being stopped."})
    url = app(V1, ready=(nothing, old, going, old, ready))
    assert prove(tmp_path, url=url, timeout_s=10)["answer"] == "Here."
    assert app.given == [V1]


def test_an_app_that_does_not_get_ready_says_why_and_is_asked_nothing(tmp_path: Path, app: Any) -> None:
    nothing = (503, {"status": "not ready", "model_version": None, "detail": "v1 is being loaded"})
    with pytest.raises(DeployError, match="being loaded"):
        prove(tmp_path, url=app(V1, ready=(nothing,)))
    assert app.given == []


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
    paths = {
        "home": tmp_path,
        "events": tmp_path / "events",
        "registry": tmp_path / "registry",
        "database": url(tmp_path),
    }
    metrics = deploy.run(Deploy(), release=release, **paths, out=tmp_path / "out")
    assert metrics == json.loads((tmp_path / "out" / "deployment.json").read_text()) == {"state": "no champion"}


APP = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
sys.path.insert(0, {root!r})
from llmops.config import load
from llmops.access.keys import keys_of
config = load()
Path({pid!r}).write_text(str(os.getpid()))
print("starting", config.release.name, "trials", config.serving.trials, flush=True)
if {dies}: sys.exit(3)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say({{"status": "ready", "model_version": "v1"}})
    def do_POST(self):
        keys_of(config).check(self.headers["X-API-Key"])
        self.say({{"response": "Mine.", "model_version": "v1"}})
    def say(self, answer):
        body = json.dumps(answer).encode()
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
    (key,) = KeyStore(database_at(url(tmp_path)), tmp_path / "events").list()
    assert (key.role, bool(key.revoked)) == ("user", True)
    log = (tmp_path / "out" / "serving.log").read_text()
    assert "llmops_" not in log and "trials False" in log


def test_an_app_that_dies_is_an_error_with_its_log(tmp_path: Path, own_app: Callable[..., Path]) -> None:
    pid = own_app(dies=True)
    with pytest.raises(DeployError, match="starting bot"):
        prove(tmp_path, timeout_s=60)
    assert gone(pid)
    assert KeyStore(database_at(url(tmp_path)), tmp_path / "events").list()[0].revoked
