"""A real Elasticsearch, where one is beside the project, and its users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from llmops.config import Monitoring
from llmops.elk.objects import INDEXER, READER, WRITER, roles

from ..event_server import running

ADMIN = {"ELASTIC_USERNAME": "boss", "ELASTIC_PASSWORD": "secret-boss"}
WRITES, READS, INDEXES = (WRITER, "secret-writer"), (READER, "secret-reader"), (INDEXER, "secret-indexer")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with an admin, and with our roles, from a file, for a user of each."""
    file = tmp_path_factory.mktemp("roles") / "roles.yml"
    file.write_text(yaml.safe_dump(roles()))
    admin = (ADMIN["ELASTIC_USERNAME"], ADMIN["ELASTIC_PASSWORD"], "superuser")
    with running([admin, *((name, password, name) for name, password in (WRITES, READS, INDEXES))], file) as server:
        yield server.url


@pytest.fixture
def config(server: str) -> Monitoring:
    """The configuration of a server."""
    return Monitoring(sinks=("elasticsearch",), elasticsearch_url=server)


@pytest.fixture(scope="session")
def ask(server: str) -> Callable[..., Any]:
    """Asks the server as admin, and gives what it says."""

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, server + path, json=body, auth=tuple(ADMIN.values()), timeout=60)
        assert answer.status_code < 400, answer.text
        return answer.json()

    return ask
