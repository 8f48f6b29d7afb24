"""The proof that the champion answers, against an app that says what a test wants it to say."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.access.keys import KeyStore
from llmops.clock import SYSTEM_CLOCK, Clock
from llmops.config import Deploy
from llmops.deploy import stage as deploy
from llmops.errors import DeployError, NotServedError
from llmops.registry.registry import Registry
from llmops.state.database import database_at
from tests.clock import FakeClock

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


def prove(home: Path, clock: Clock | None = None, status: str = "promoted", **config: Any) -> dict[str, Any]:
    release = publish(home, status)
    paths = {"home": home, "events": home / "events", "registry": home / "registry", "database": url(home)}
    told = Deploy(question="Where?", **{"timeout_s": 2.0, **config})
    deploy.run(told, release=release, **paths, out=home / "out", clock=clock or FakeClock())
    document: dict[str, Any] = json.loads((home / "out" / "deployment.json").read_text())
    return document


class App:
    """An app that is ready in these ways and gives these answers in turn, the last ones for ever."""

    def __init__(self) -> None:
        self.ready: list[Said] = [(200, {"status": "ready", "model_version": "v1"})]
        self.answers: list[Said] = []
        self.given: list[Said] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("GET", "/readyz"):
            status, told = self.ready.pop(0) if len(self.ready) > 1 else self.ready[0]
            return httpx.Response(status, json=told)
        assert (request.method, request.url.path) == ("POST", "/generate")
        assert json.loads(request.content) == {"prompt": "Where?"}
        assert (request.headers["X-LLMOps-Side"], request.headers["X-API-Key"]) == ("champion", "llmops_key")
        self.given.append(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        return httpx.Response(self.given[-1][0], json=self.given[-1][1])


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    app = App()
    monkeypatch.setenv("LLMOPS_API_KEY", "llmops_key")
    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(app)))
    return app


URL = "http://app"
V1: Said = (200, {"response": "Here.", "model_version": "v1"})
OLD: Said = (200, {"response": "There.", "model_version": "v0"})
LOADING: Said = (503, {"detail": "v1 is being loaded"})


def test_the_champion_answers(tmp_path: Path, app: App) -> None:
    app.answers = [V1]
    assert prove(tmp_path, url=URL) == {
        "state": "served", "url": URL, "version": "v1", "question": "Where?", "answer": "Here.", "seconds": 0.0,
    }  # fmt: skip


def test_it_asks_again_when_a_replica_that_is_not_so_far_answers(tmp_path: Path, app: App) -> None:
    app.answers = [OLD, LOADING, V1]
    proof = prove(tmp_path, url=URL)
    assert proof["answer"] == "Here." and proof["seconds"] == 1.0


def test_while_the_old_version_answers_or_the_new_one_loads_nothing_is_asked(tmp_path: Path, app: App) -> None:
    old = (200, {"status": "ready", "model_version": "v0", "detail": "v1 is being loaded"})
    nothing = (503, {"status": "not ready", "model_version": None, "detail": "v1 is being loaded"})
    going = (503, {"status": "not ready", "model_version": "v1", "detail": "It is being stopped."})
    app.answers, app.ready = [V1], [nothing, old, going, old, *app.ready]
    assert prove(tmp_path, url=URL, timeout_s=10)["answer"] == "Here."
    assert app.given == [V1]


@pytest.mark.parametrize(("said", "words"), [(OLD, "v0"), ((500, {"detail": "boom"}), "boom"), (None, "being loaded")])
def test_in_the_end_it_says_what_the_app_said(tmp_path: Path, app: App, said: Said | None, words: str) -> None:
    """One that does not get ready is asked nothing."""
    if said:
        app.answers = [said]
    else:
        app.ready = [(503, {"status": "not ready", "model_version": None, "detail": "v1 is being loaded"})]
    with pytest.raises(NotServedError, match=words):
        prove(tmp_path, url=URL)
    assert not (tmp_path / "out" / "deployment.json").exists() and bool(app.given) == bool(said)


def test_a_refusal_is_final(tmp_path: Path, app: App) -> None:
    app.answers = [(403, {"detail": "this role may not generate"})]
    with pytest.raises(DeployError, match="may not"):
        prove(tmp_path, url=URL)
    assert len(app.given) == 1


@pytest.mark.parametrize(("key", "words"), [("llmops_key", "127.0.0.1:9"), ("", "LLMOPS_API_KEY")])
def test_it_needs_an_app_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, words: str) -> None:
    monkeypatch.setenv("LLMOPS_API_KEY", key)
    with pytest.raises(DeployError, match=words):
        prove(tmp_path, url="http://127.0.0.1:9")


def test_without_a_champion_nothing_is_deployed(tmp_path: Path) -> None:
    assert prove(tmp_path, status="rejected") == {"state": "no champion"}


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
    proof = prove(tmp_path, SYSTEM_CLOCK, timeout_s=60)
    assert (proof["version"], proof["answer"]) == ("v1", "Mine.")
    assert gone(pid)
    (key,) = KeyStore(database_at(url(tmp_path)), tmp_path / "events").list()
    assert (key.role, bool(key.revoked)) == ("user", True)
    log = (tmp_path / "out" / "serving.log").read_text()
    assert "llmops_" not in log and "trials False" in log


def test_an_app_that_dies_is_an_error_with_its_log(tmp_path: Path, own_app: Callable[..., Path]) -> None:
    pid = own_app(dies=True)
    with pytest.raises(DeployError, match="starting bot"):
        prove(tmp_path, SYSTEM_CLOCK, timeout_s=60)
    assert gone(pid)
    assert KeyStore(database_at(url(tmp_path)), tmp_path / "events").list()[0].revoked
