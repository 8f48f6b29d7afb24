"""A developer tests any version by its name, loaded or not; nobody else is touched by it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.engines.echo import EchoEngine


@pytest.fixture
def client(site: Any) -> Iterator[TestClient]:
    """v1 answers; v2 and v3 are not loaded."""
    site.add_version("v3")
    with site.client() as client:
        site.ready(client)
        yield client


def ask(site: Any, client: TestClient, role: str, version: str, path: str = "/generate") -> Any:
    headers = {**site.headers(role), "X-LLMOps-Side": version}
    if path == "/generate":
        return client.post(path, json={"prompt": "one two"}, headers=headers)
    body = {"model": f"support-bot:{version}", "prompt": "one two"}
    return client.post(path, json=body, headers=site.headers(role))


@pytest.mark.parametrize("role", ["developer", "admin"])
def test_a_version_that_is_not_loaded_answers_who_may_test_it(site: Any, client: TestClient, role: str) -> None:
    assert ask(site, client, role, "v2").json()["model_version"] == "v2"
    assert ask(site, client, role, "v3", "/v1/completions").status_code == 200
    assert ask(site, client, role, "v1").json()["model_version"] == "v1"
    aliases = client.get("/admin/models", headers=site.headers("developer")).json()
    assert aliases["aliases"] == {"champion": "v1"} and aliases["serving"] == "v1" and aliases["canary"] is None


def test_a_user_cannot_have_a_version_loaded_nor_use_one_that_a_developer_tests(site: Any, client: TestClient) -> None:
    for path in ("/generate", "/v1/completions"):
        assert ask(site, client, "user", "v2", path).status_code == 404
    assert list(site.engines) == ["v1"]
    assert ask(site, client, "developer", "v2").status_code == 200
    for path in ("/generate", "/v1/completions"):
        assert ask(site, client, "user", "v2", path).status_code == 404
    assert {site.ask(client).json()["model_version"] for _ in range(5)} == {"v1"}


def test_what_cannot_be_tested_is_said(site: Any, client: TestClient) -> None:
    assert ask(site, client, "developer", "v9").status_code == 404
    assert "v1" in ask(site, client, "developer", "v9").json()["detail"]
    (site.config.release.registry / site.config.release.name / "versions" / "v3" / "servable").rmdir()
    assert "no model" in ask(site, client, "developer", "v3").json()["detail"]


def test_the_version_tested_before_is_gone_when_the_next_one_is_loaded(site: Any) -> None:
    site.add_version("v3")
    alive: list[list[str]] = []

    def engine(version: Any) -> EchoEngine:
        alive.append([name for name, other in site.engines.items() if name != "v1" and other.stats().alive])
        return site.engine(version)

    with site.client(engine) as client:
        site.ready(client)
        for version in ("v2", "v3", "v2"):
            assert ask(site, client, "developer", version).json()["model_version"] == version
    assert alive == [[]] * 4


def test_one_that_cannot_be_loaded_is_an_error_for_the_developer_alone(site: Any) -> None:
    class Broken(EchoEngine):
        def load(self) -> None:
            raise OSError("no weights")

    def engine(version: Any) -> EchoEngine:
        return Broken(4, 4) if version.name == "v2" else site.engine(version)

    with site.client(engine) as client:
        site.ready(client)
        answer = ask(site, client, "developer", "v2")
        assert answer.status_code == 503 and "v2 cannot be loaded (OSError)" in answer.json()["detail"]
        assert client.get("/readyz").status_code == 200 and site.ask(client).status_code == 200


def test_an_idle_one_is_closed_and_comes_again(tmp_path: Path, new_site: Any) -> None:
    site = new_site(tmp_path, test_idle_s=0.2).release()
    with site.client() as client:
        site.ready(client)
        assert ask(site, client, "developer", "v2").status_code == 200
        first = site.engines["v2"]
        site.until(lambda: not first.stats().alive)
        assert ask(site, client, "developer", "v2").status_code == 200 and site.engines["v2"] is not first
        assert site.engines["v1"].stats().alive


def test_it_can_be_turned_off(tmp_path: Path, new_site: Any) -> None:
    site = new_site(tmp_path, test_idle_s=0).release()
    with site.client() as client:
        site.ready(client)
        answer = ask(site, client, "developer", "v2")
        assert answer.status_code == 404 and "serving.test_idle_s" in answer.json()["detail"]


def test_developers_who_ask_for_different_versions_at_once_all_get_an_answer_or_are_told(
    site: Any, client: TestClient
) -> None:
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda v=version: answers.append(ask(site, client, "developer", v)))
        for version in ("v2", "v3") * 6
    ]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert site.ask(client).json()["model_version"] == "v1"
    for thread in threads:
        thread.join()
    assert {a.status_code for a in answers} <= {200, 404, 503} and any(a.status_code == 200 for a in answers)
    for answer in answers:
        assert answer.status_code == 200 or "v" in answer.json()["detail"]
    assert ask(site, client, "developer", "v3").json()["model_version"] == "v3"


def test_a_canary_is_not_counted_by_tests(site: Any, client: TestClient) -> None:
    body = {"version": "v2", "share": 0.999999}
    assert client.post("/admin/canary", json=body, headers=site.headers("admin")).status_code == 200
    site.until(lambda: client.app.state.parts.models.canary)  # type: ignore[attr-defined]
    for _ in range(5):
        assert ask(site, client, "developer", "v3").json()["model_version"] == "v3"
    state = client.get("/admin/models", headers=site.headers("developer")).json()["canary"]
    assert state["canary"]["requests"] == state["champion"]["requests"] == 0
