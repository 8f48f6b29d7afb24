"""The proof that the champion answers, against an app that says what a test wants it to say."""

import json
import subprocess
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from llmops.access.keys import KeyStore
from llmops.access.roles import RevokedKey
from llmops.config import Deploy
from llmops.data.retrieval.file_store import write_passages
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import DeployError, NotServedError
from llmops.frame.records import Passage
from llmops.release.deploy import stage as deploy
from llmops.release.registry.indexes import find_served_index, is_served
from llmops.release.registry.registry import Registry
from llmops.state.database import database_at
from tests.clock import FakeClock, wait_until
from tests.release.conftest import facts

ROOT = Path(__file__).parents[3]
Said = tuple[int, dict[str, Any]]


def url(home: Path) -> str:
    return f"sqlite:///{home / 'state.db'}"


def publish(home: Path, status: str = "promoted") -> Path:
    source, release = home / "source", home / "release"
    source.mkdir()
    known, registry = facts(status=status, compared_with="base", compress="t1"), home / "registry"
    publish = Registry(registry, "bot", database_at(url(home))).publish
    publish(known, {"servable": source}, lambda _: {}, by="test", why="test")
    release.mkdir()
    decision = {"version": "v1", "outcome": status, "model": "bot"}
    (release / "decision.json").write_text(json.dumps(decision))
    (home / "out").mkdir()
    return release


def index_of(home: Path, passages: int) -> Path:
    """Return an artifact of `index` with so many passages."""
    path = home / "index" / str(passages)
    if not artifacts.is_done(path):
        path.mkdir(parents=True)
        artifacts.commit(path, Record("index", path.name, {}, {}, "", "", {"passages": passages}, {}, "", "", ""))
    return path


def prove(home: Path, clock: Clock | None = None, status: str = "promoted", **config: Any) -> dict[str, Any]:
    release = publish(home, status)
    paths = {"home": home, "events": home / "events", "registry": home / "registry", "database": url(home)}
    told = Deploy(question="Where?", **{"timeout_s": 2.0, **config})
    given = {"release": release, "index": index_of(home, 1), **paths, "out": home / "out"}
    try:
        deploy.run(told, **given, clock=clock or FakeClock())
    finally:  # the index is served even if no version is: one that is promoted by hand answers from it
        assert is_served(home / "registry" / "bot", given["index"])
    assert deploy.is_current(told, **given) and not deploy.is_current(told, **{**given, "index": index_of(home, 0)})
    document: dict[str, Any] = json.loads((home / "out" / "deployment.json").read_text())
    return document


@pytest.mark.parametrize(
    ("outcome", "ids", "served"), [("rejected", "ab", "a"), ("rejected", "bc", "bc"), ("promoted", "ab", "ab")]
)
def test_an_index_that_makes_answers_worse_waits_if_it_only_adds_passages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, ids: str, served: str
) -> None:
    monkeypatch.setenv("LLMOPS_API_KEY", "llmops_key")
    monkeypatch.setattr(deploy, "prove", lambda *_, **__: {})
    config, release, model = Deploy(url="http://bot"), publish(tmp_path), tmp_path / "registry" / "bot"
    (release / "decision.json").write_text(json.dumps({"model": "bot", "version": "v1", "outcome": "rejected"}))
    paths = {"home": tmp_path, "events": tmp_path / "events", "registry": model.parent, "database": url(tmp_path)}
    for names in ("a", ids):
        (index := tmp_path / "index" / names).mkdir(parents=True)
        place = {"source": "pages", "location": "a.html", "position": "1"}
        write_passages(index, [Passage(id=name, document=name, text=name, **place) for name in names])
        metrics = {"passages": len(names)}
        artifacts.commit(index, Record("index", names, {}, {}, "", "", metrics, {}, "", "", ""))
        given = {"release": release, "index": index, **paths, "out": tmp_path / "out"}
        deploy.run(config, **given)
        told = {"model": "bot", "version": "v1", "outcome": "rejected", "documents": {"outcome": outcome}}
        (release / "decision.json").write_text(json.dumps(told))
    now = find_served_index(model)
    assert now and now.name == served and deploy.is_current(config, **given)
    written = json.loads((tmp_path / "out" / "deployment.json").read_text())
    assert written == {"state": "served", **({"index": "held back"} if served != ids else {})}
    (release / "decision.json").write_text(json.dumps({**told, "documents": {"outcome": "rejected"}}))
    assert "index" not in deploy.run(config, **{**given, "index": tmp_path / "index" / served})  # it is served


class App:
    """An app that is ready in these ways and gives these answers in turn, the last ones for ever."""

    def __init__(self) -> None:
        self.ready: list[Said] = [(200, {"status": "ready", "model_version": "v1"})]
        self.answers: list[Said] = []
        self.given: list[Said] = []
        self.keys: set[str] = set()
        self.documents: Said = (404, {"code": "no_documents", "detail": "No index is served."})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if (request.method, request.url.path) == ("GET", "/readyz"):
            status, told = self.ready.pop(0) if len(self.ready) > 1 else self.ready[0]
            return httpx.Response(status, json=told)
        assert (request.method, request.url.path) == ("POST", "/generate")
        assert request.headers["X-LLMOps-Side"] == "champion"
        self.keys.add(request.headers["X-API-Key"])
        body = json.loads(request.content)
        assert body == {"prompt": "Where?", "ground": body["ground"]}
        if body["ground"]:
            return httpx.Response(self.documents[0], json=self.documents[1])
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


def test_the_champion_answers_and_before_the_new_version_is_ready_nothing_is_asked(tmp_path: Path, app: App) -> None:
    """It asks again when a replica that is not so far answers."""
    old = (200, {"status": "ready", "model_version": "v0", "detail": "v1 is being loaded"})
    nothing = (503, {"status": "not ready", "model_version": None, "detail": "v1 is being loaded"})
    going = (503, {"status": "not ready", "model_version": "v1", "detail": "The app is being stopped."})
    app.answers, app.ready = [OLD, V1], [nothing, old, going, old, *app.ready]
    assert prove(tmp_path, url=URL, timeout_s=10) == {
        "state": "served", "url": URL, "version": "v1", "question": "Where?", "answer": "Here.", "seconds": 2.5,
    }  # fmt: skip
    assert app.given == [OLD, V1] and app.keys == {"llmops_key"}


def test_the_answer_from_the_documents_is_kept_with_the_pages_that_it_names(tmp_path: Path, app: App) -> None:
    sources = [{"location": "delivery.html"}, {"location": "shops.html"}, {"location": "delivery.html"}]
    app.answers = [V1]
    app.documents = (200, {"response": "In Cork.", "model_version": "v1", "sources": sources})
    told = prove(tmp_path, url=URL)
    assert (told["answer"], told["answer_from_documents"]) == ("Here.", "In Cork.")
    assert told["sources"] == ["delivery.html", "shops.html"]


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (OLD, NotServedError, "v0"),
        ((500, {"detail": "boom"}), NotServedError, "boom"),
        (None, NotServedError, "being loaded"),
        ((403, {"detail": "this role may not generate"}), DeployError, "may not"),
    ],
)
def test_in_the_end_it_says_what_the_app_said(
    tmp_path: Path, app: App, said: Said | None, error: type[Exception], words: str
) -> None:
    """One that does not get ready is asked nothing, and a refusal is final."""
    if said:
        app.answers = [said]
    else:
        app.ready = [(503, {"status": "not ready", "model_version": None, "detail": "v1 is being loaded"})]
    with pytest.raises(error, match=words):
        prove(tmp_path, url=URL)
    assert not (tmp_path / "out" / "deployment.json").exists()
    assert len(app.given) == (0 if not said else 4 if error is NotServedError else 1)


def test_without_a_key_it_makes_one_for_the_proof(tmp_path: Path, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMOPS_API_KEY")
    app.answers = [V1]
    prove(tmp_path, url=URL)
    (key,) = app.keys
    with pytest.raises(RevokedKey):
        KeyStore(database_at(url(tmp_path)), tmp_path / "events").check(key)


def test_an_app_with_another_database_needs_a_key_of_its_own(tmp_path: Path, app: App) -> None:
    app.answers = [(401, {"detail": "unknown key"})]
    with pytest.raises(DeployError, match=r"unknown key.* Set LLMOPS_API_KEY"):
        prove(tmp_path, url=URL)


def test_an_app_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotServedError, match=r"127\.0\.0\.1:9"):
        prove(tmp_path, url="http://127.0.0.1:9")


def test_without_a_champion_nothing_is_deployed(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"Nothing is served.* v1 \(it is rejected.*models promote v1 --override"):
        prove(tmp_path, status="rejected")


@pytest.mark.parametrize(
    ("does", "clock", "error", "words"),
    [("exit 3", SYSTEM_CLOCK, DeployError, "starting .bot"), ("exec sleep 600", FakeClock(), NotServedError, "within")],
)
def test_of_an_app_that_is_started_for_the_proof_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, clock: Clock, error: type[Exception], words: str
) -> None:
    """`python -m serving` is a program that dies or hangs; e2e has the real one."""
    program, started = tmp_path / "python", list[subprocess.Popen[bytes]]()
    program.write_text(f"#!/bin/sh\necho starting $LLMOPS_RELEASE__NAME, trials $LLMOPS_SERVING__TRIALS\n{does}\n")
    program.chmod(0o755)

    class Started(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self)

    monkeypatch.setattr(deploy.sys, "executable", str(program))
    monkeypatch.setattr(deploy.subprocess, "Popen", Started)
    with pytest.raises(error, match=words):
        prove(tmp_path, clock, timeout_s=50)
    assert started[0].returncode is not None
    (key,) = KeyStore(database_at(url(tmp_path)), tmp_path / "events").list()
    assert (key.role, bool(key.revoked)) == ("user", True)
    expires, created = datetime.fromisoformat(key.expires), datetime.fromisoformat(key.created)
    assert (expires - created).total_seconds() == 2 * 50 + 60, "a killed deploy leaves no key for long"
    log = (tmp_path / "out" / "serving.log").read_text()
    assert "llmops_" not in log and (does != "exit 3" or "trials false" in log)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_killed_deploy_leaves_no_app(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    code = (
        "import sys, time; from pathlib import Path; from llmops.release.deploy import stage\n"
        "home, sys.executable = Path(sys.argv[1]), sys.argv[2]\n"
        "with stage.run_app(home, 'bot', home, 'sqlite:///x', home / 'serving.log') as (_, process):\n"
        "    print(process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as killed:
        assert killed.stdout
        app = psutil.Process(int(killed.stdout.readline()))
        killed.kill()
    wait_until(lambda: not app.is_running() or app.status() == psutil.STATUS_ZOMBIE)
