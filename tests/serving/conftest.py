"""A site: a registry with two versions, keys of every role, and the app on them with an echo engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmops.access.keys import keys_of
from llmops.access.roles import ROLES
from llmops.config import Config
from llmops.monitoring.datasets import SERVING
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.registry.aliases import Change, move
from llmops.registry.indexes import serve_index
from llmops.registry.registry import registry_of
from llmops.state.database import database_of
from serving.app import create_app
from serving.engines.echo import EchoEngine, EchoRow
from serving.engines.stepping import Job
from serving.http.draining import DrainingServer

from ..documents import DAY, SAID, indexed

NO_LIMITS = {"requests_per_minute": 0, "tokens_per_minute": 0}


class Site:
    """A configuration with two versions, v1 the champion, one good key per role, and the app on them.

    Args:
        home: where everything is that `sections` put nowhere else.
        sections: of the configuration, besides `serving`.
        serving: settings of that one.
    """

    def __init__(self, home: Path, sections: Mapping[str, Any] | None = None, **serving: Any) -> None:
        self.config = Config(
            home=home,
            serving={"poll_s": 0.02, "max_new_tokens": 20, "max_prompt_chars": 200, **NO_LIMITS, **serving},
            **(sections or {}),
        )
        self.store = keys_of(self.config)
        self.keys = {role: self.store.create(role, role)[0] for role in ROLES}
        self.engines: dict[str, EchoEngine] = {}
        self.embeddings: Any = None  #: of the app

    def release(self) -> Site:
        self.add_version("v1")
        self.add_version("v2")
        self.set_aliases(champion="v1")
        return self

    def add_version(self, name: str) -> None:
        path = self.config.release.registry / self.config.release.name / "versions" / name
        (path / "servable").mkdir(parents=True)
        facts = ["compared_with", "compress", "base_model", "base_revision", "licence", "quantisation", "interval"]
        version = {**dict.fromkeys([*facts, "run", "dataset", "created"], "x"), "name": name, "status": "promoted"}
        (path / "version.json").write_text(json.dumps(version))
        registry_of(self.config).decide(name, "gate", "promoted", by="a test", why="passed")

    def set_aliases(self, **aliases: str) -> None:
        with database_of(self.config).change() as connection:
            move(connection, self.config.release.name, aliases, Change("promote", "", "a test", "set"))

    @contextmanager
    def damaged_database(self) -> Iterator[None]:
        """In the database's place is something else."""
        files = list(self.config.home.glob("state.db*"))
        for file in files:
            file.rename(file.with_name(f"good-{file.name}"))
        (self.config.home / "state.db").write_text("{" * 5000)
        try:
            yield
        finally:
            for file in self.config.home.glob("state.db*"):
                file.unlink()
            for file in files:
                file.with_name(f"good-{file.name}").rename(file)

    def engine(self, version: Any) -> EchoEngine:
        serving = self.config.serving
        self.engines[version.name] = EchoEngine(serving.max_queue, serving.max_batch)
        return self.engines[version.name]

    def app(self, engine_for: Callable[[Any], Any] | None = None) -> Any:
        app = create_app(self.config, engine_for or self.engine, environ={})
        self.embeddings = app.state.parts.embeddings
        return app

    def client(self, engine_for: Callable[[Any], Any] | None = None) -> TestClient:
        return Client(self, self.app(engine_for), raise_server_exceptions=False)

    @contextmanager
    def live(self, engine_for: Callable[[Any], Any] | None = None) -> Iterator[str]:
        """The app behind a real uvicorn on a free port, ready to answer; gives its URL."""
        server = DrainingServer(self.app(engine_for), self.config.serving.model_copy(update={"port": 0}))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        self.until(lambda: server.started and self.engines and all(e.stats().alive for e in self.engines.values()))
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            self.go()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)

    def go(self) -> None:
        """Let engines that a test has held up go on: closing them waits for that."""
        for engine in self.engines.values():
            engine.going.set()

    def ready(self, client: Any, version: str = "v1") -> None:
        self.until(lambda: client.get("/readyz").json()["model_version"] == version)

    def headers(self, role: str = "user") -> dict[str, str]:
        return {"X-API-Key": self.keys[role]}

    def ask(self, client: Any, role: str | None = "user", **body: Any) -> Any:
        return client.post(
            "/generate", json={"prompt": "one two three", **body}, headers=self.headers(role) if role else {}
        )

    def events(self, dataset: str = SERVING) -> Sequence[dict[str, Any]]:
        drain(self.config.events, self.config.monitoring)
        return list(LocalStore(self.config.events).find(dataset))


class Client(TestClient):
    """A client in whose `with` block the app runs."""

    def __init__(self, site: Site, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._site = site

    def __exit__(self, *error: Any) -> None:
        self._site.go()
        super().__exit__(*error)


class Leaking(EchoEngine):
    """Knows a secret, and says it after the words of the prompt."""

    def _begin(self, job: Job) -> EchoRow:
        row = super()._begin(job)
        row.words = [*row.words, "hf_" + "aB3dE" * 6]
        return row


@pytest.fixture
def leaking() -> type[EchoEngine]:
    return Leaking


@pytest.fixture(scope="session")
def new_site() -> type[Site]:
    """For tests that need a site of their own."""
    return Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path).release()


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with site.client() as client:
        site.ready(client)
        yield client


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of an index."""
    return indexed(tmp_path_factory.mktemp("home"), SAID)


@pytest.fixture
def grounded(index: Path, tmp_path: Path) -> Site:
    """A site whose answers rest on documents."""
    site = Site(tmp_path / "site", {"grounding": {"enabled": True}}, max_prompt_chars=400).release()
    serve_index(registry_of(site.config), index, DAY, by="a test")
    return site
