"""A site: a registry with two versions, keys of every role, and the app on them with an echo engine."""

from __future__ import annotations

import functools
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from llmops.access import rows
from llmops.access.keys import keys_of
from llmops.access.presented import hash_secret, make_secret
from llmops.access.roles import ROLES, Key, Role
from llmops.config import Config
from llmops.events.datasets import AUDIT, FEEDBACK, SERVING
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.release.registry.aliases import AliasChange, move
from llmops.release.registry.registry import registry_of
from llmops.state.database import Database, database_of
from serving.app import create_app
from serving.engines.stepping import Job
from serving.http.protocol import BoundedProtocol
from tests.clock import wait_until
from tests.release.conftest import put_version
from tests.serving.echo import EchoEngine, EchoRow
from tests.serving.provider import Provider, run_provider

NO_LIMITS = {"requests_per_minute": 0, "tokens_per_minute": 0}


@functools.cache
def empty_database() -> bytes:
    """Return the file of a database with all tables; making it again for each site takes a tenth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        Database(f"sqlite:///{folder}/state.db").vacuum()
        return Path(folder, "state.db").read_bytes()


class Site:
    """A configuration with two versions, v1 the champion, one good key per role, and the app on them.

    The prefixes of its keys are fixed, and so is the side of a trial that each of them is drawn for.
    """

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None, **serving: Any) -> None:
        self.environ = environ or {}
        self.config = Config(
            home=home, serving={"poll_s": 0.02, "max_new_tokens": 20, "max_prompt_chars": 200, **NO_LIMITS, **serving}
        )
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "state.db").exists():
            (home / "state.db").write_bytes(empty_database())
        self.store = keys_of(self.config)
        self.keys = {role: self.add_key(f"{n:08x}", role) for n, role in enumerate(ROLES, 1)}
        self.engines: dict[str, EchoEngine] = {}
        self._old: set[str] = set()

    def release(self) -> Site:
        self.add_version("v1")
        self.add_version("v2")
        self.set_aliases(champion="v1")
        return self

    def add_key(self, prefix: str, role: Role = "user", owner: str = "") -> str:
        """Keep a key with this prefix, 8 hex digits, and return it."""
        secret, created = make_secret(), "2026-01-01T00:00:00+00:00"
        with database_of(self.config).change() as connection:
            rows.insert(connection, Key(prefix, role, owner or role, hash_secret(secret), created))
        return f"llmops_{prefix}_{secret}"

    def add_version(self, name: str) -> None:
        put_version(self.config, name)
        registry_of(self.config).decide(name, "gate", "promoted", by="a test", why="passed")

    def set_aliases(self, **aliases: str) -> None:
        with database_of(self.config).change() as connection:
            move(connection, self.config.release.name, aliases, AliasChange("promote", "", "a test", "set"))

    def start_canary(self, client: Any, version: str = "v2", share: float = 0.5) -> None:
        """Let a version answer a share of the callers, and wait until it does."""
        body = {"version": version, "share": share}
        assert client.post("/admin/canary", json=body, headers=self.headers("admin")).status_code == 200
        self.until(lambda: client.app.state.parts.models.canary)

    def engine(self, version: Any) -> EchoEngine:
        serving = self.config.serving
        self.engines[version.name] = EchoEngine(serving.max_queue, serving.max_batch)
        return self.engines[version.name]

    def app(self, engine_for: Callable[[Any], Any] | None = None) -> Any:
        return create_app(self.config, engine_for or self.engine, environ=self.environ)

    def client(self, engine_for: Callable[[Any], Any] | None = None) -> TestClient:
        return Client(self, self.app(engine_for), raise_server_exceptions=False)

    @contextmanager
    def live(self, engine_for: Callable[[Any], Any] | None = None) -> Iterator[str]:
        """The app behind a real uvicorn on a free port, ready to answer; gives its URL."""
        app = self.app(engine_for)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", http=BoundedProtocol))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        self.until(lambda: server.started and app.state.parts.models.champion)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            self.go()
            server.should_exit = True
            thread.join(50)
            assert not thread.is_alive()

    @staticmethod
    def until(condition: Callable[[], Any], seconds: float = 50.0) -> None:
        wait_until(condition, limit_s=seconds)

    def go(self) -> None:
        """Let engines that a test has held up go on: closing them waits for that."""
        for engine in self.engines.values():
            if isinstance(engine, EchoEngine):
                engine.may_step.set()

    def ready(self, client: Any, version: str = "v1") -> None:
        self.until(lambda: client.get("/readyz").json()["model_version"] == version)

    def headers(self, role: str = "user") -> dict[str, str]:
        return {"X-API-Key": self.keys[role]}

    def ask(self, client: Any, role: str | None = "user", **body: Any) -> Any:
        return client.post(
            "/generate", json={"prompt": "one two three", **body}, headers=self.headers(role) if role else {}
        )

    def events(self, dataset: str = SERVING) -> Sequence[dict[str, Any]]:
        drain_spool(self.config.events, self.config.monitoring)
        found = LocalStore(self.config.events).find(dataset)
        return [event for event in found if event["event.id"] not in self._old]

    def forget_events(self) -> None:
        """Let `events` give only those that come from now on."""
        drain_spool(self.config.events, self.config.monitoring)
        store = LocalStore(self.config.events)
        self._old = {event["event.id"] for dataset in (SERVING, FEEDBACK) for event in store.find(dataset)}

    def refusals(self, client: Any, path: str = "/signin/oidc/callback") -> Counter[str]:
        """Return how often access to a path was refused for each reason, by the audit until now."""
        client.portal.call(client.app.state.parts.audit.flush, 0.0)
        found = [event for event in self.events(AUDIT) if event.get("url.path") == path]
        counts: Counter[str] = Counter()
        for event in found:
            if event["event.outcome"] == "failure":
                counts[event["event.reason"]] += event["llmops.audit.count"]
        return counts


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


class Stepwise(EchoEngine):
    """Says only as many words as `say` lets it, until `may_step` is set again."""

    def say(self, words: int) -> None:
        """Let so many words be said, and no more."""
        self._allowed = threading.Semaphore(words)
        self.may_step.clear()

    def _step(self, rows: list[EchoRow]) -> None:
        while not (self.may_step.is_set() or self._allowed.acquire(timeout=0.01)):
            pass
        for row in [] if self._error else rows:
            self._push_word(row)


@pytest.fixture
def leaking() -> type[EchoEngine]:
    return Leaking


@pytest.fixture(scope="session")
def stepwise() -> type[Stepwise]:
    """An engine that a test lets say word after word; see `Stepwise`."""
    return Stepwise


@pytest.fixture(scope="session")
def new_site() -> type[Site]:
    """For tests that need a site of their own."""
    return Site


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """A provider of OpenID Connect that knows a user, a developer, an admin, and a stranger without a role."""
    with run_provider() as provider:
        for role in ROLES:
            provider.add(role, f"shop-{role}s", "everybody")
        provider.add("stranger", "everybody")
        yield provider


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path).release()


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with site.client() as client:
        site.ready(client)
        yield client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, TestClient]]:
    """One site and its app for a whole module; see `shared_site`."""
    site = Site(tmp_path_factory.mktemp("site")).release()
    with site.client() as client:
        site.ready(client)
        yield site, client


@pytest.fixture
def shared_site(running: tuple[Site, TestClient]) -> Site:
    """The module's site, for tests that leave keys, versions and engines as they are; gives its new events only."""
    site, client = running
    client.cookies.clear()
    site.forget_events()
    return site


@pytest.fixture
def shared_client(shared_site: Site, running: tuple[Site, TestClient]) -> TestClient:
    """A client of the module's app."""
    return running[1]
