"""A developer tests any version by its name, loaded or not; nobody else is touched by it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.serving.echo import EchoEngine


@pytest.fixture(scope="module")
def served(new_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A site, its client, and which tested versions were alive when another was made. v1 answers; v4 cannot be loaded,
    v5 is never tested, and v6 has no model."""
    site, overlaps = new_site(tmp_path_factory.mktemp("tested")).release(), list[str]()
    for name in ("v3", "v4", "v5", "v6"):
        site.add_version(name)
    (site.config.release.registry / site.config.release.name / "versions" / "v6" / "servable").rmdir()

    def engine(version: Any) -> EchoEngine:
        if version.name == "v4":
            return EchoEngine(load_error=OSError("no weights"))
        overlaps.extend(name for name, other in site.engines.items() if name != "v1" and other.get_stats().alive)
        return site.engine(version)

    with site.client(engine) as client:
        site.ready(client)
        yield SimpleNamespace(site=site, client=client, overlaps=overlaps)


def ask(served: Any, role: str, version: str, path: str = "/generate") -> Any:
    headers = served.site.headers(role)
    if path == "/generate":
        return served.client.post(path, json={"prompt": "one two"}, headers={**headers, "X-LLMOps-Side": version})
    return served.client.post(path, json={"model": f"support-bot:{version}", "prompt": "one two"}, headers=headers)


@pytest.mark.parametrize("role", ["developer", "admin"])
def test_a_version_that_is_not_loaded_answers_who_may_test_it(served: Any, role: str) -> None:
    assert ask(served, role, "v2").json()["model_version"] == "v2"
    assert ask(served, role, "v3", "/v1/completions").status_code == 200
    assert ask(served, role, "v1").json()["model_version"] == "v1"
    aliases = served.client.get("/admin/models", headers=served.site.headers("developer")).json()
    assert aliases["aliases"] == {"champion": "v1"} and aliases["serving"] == "v1" and aliases["canary"] is None


def test_a_user_cannot_have_a_version_loaded_nor_use_one_that_a_developer_tests(served: Any) -> None:
    assert ask(served, "developer", "v2").status_code == 200
    for path in ("/generate", "/v1/completions"):
        for version in ("v2", "v5"):
            assert ask(served, "user", version, path).status_code == 404
    assert "v5" not in served.site.engines
    assert {served.site.ask(served.client).json()["model_version"] for _ in range(5)} == {"v1"}


def test_what_cannot_be_tested_is_a_developers_error_alone(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = ask(served, "developer", "v9")
    assert unknown.status_code == 404 and "v1" in unknown.json()["detail"]
    assert "no model" in ask(served, "developer", "v6").json()["detail"]
    broken = ask(served, "developer", "v4")
    assert broken.status_code == 503 and "v4 cannot be loaded (OSError)" in broken.json()["detail"]
    monkeypatch.setattr(served.client.app.state.parts.models.tested, "_idle_s", 0)
    off = ask(served, "developer", "v2")
    assert off.status_code == 404 and "serving.test_idle_s" in off.json()["detail"]
    assert served.client.get("/readyz").status_code == 200 and served.site.ask(served.client).status_code == 200


def test_one_is_loaded_at_a_time_and_an_idle_one_comes_again(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("v2", "v3", "v2"):
        assert ask(served, "developer", version).json()["model_version"] == version
    first = served.site.engines["v2"]
    with monkeypatch.context() as patch:
        patch.setattr(served.client.app.state.parts.models.tested, "_idle_s", 0.01)
        served.site.until(lambda: not first.get_stats().alive)
    assert ask(served, "developer", "v2").status_code == 200 and served.site.engines["v2"] is not first
    assert served.site.engines["v1"].get_stats().alive and served.overlaps == []
