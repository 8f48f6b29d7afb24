"""Canaries over HTTP: started and stopped by an admin, asked for by a header, and told about."""

import json
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from llmops.release import trials
from llmops.release.registry.registry import registry_of
from serving.engines.base import EngineRequest, Stream
from serving.errors import QueueFull
from tests.release.conftest import put_version

CHAT = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}]}


def start_canary(site: Any, client: TestClient, share: float = 0.999) -> Any:
    answer = client.post("/admin/canary", json={"version": "v2", "share": share}, headers=site.headers("admin"))
    site.until(lambda: client.app.state.parts.models.canary)  # type: ignore[attr-defined]
    return answer


def ask_side(site: Any, client: TestClient, name: str) -> Any:
    headers = {**site.headers(), "X-LLMOps-Side": name}
    return client.post("/generate", json={"prompt": "one two"}, headers=headers)


def test_a_versions_system_prompt_is_shown_and_reserved_for(site: Any) -> None:
    put_version(site.config, "v3", system_prompt="Be kind, é.")
    registry_of(site.config).decide("v3", "gate", "promoted", by="a test", why="passed")
    site.set_aliases(champion="v3")
    with site.client() as client:
        site.ready(client, "v3")
        listed = client.get("/admin/models", headers=site.headers("developer")).json()
        assert [one["system_prompt"] for one in listed["versions"]] == ["", "", "Be kind, é."]
        assert client.app.state.parts.models.system_prompt == "Be kind, é."


def test_an_admin_starts_and_stops_a_canary_and_it_is_written_down(site: Any, client: TestClient) -> None:
    answer = start_canary(site, client)
    assert answer.status_code == 200 and answer.json()["aliases"] == {"champion": "v1", "canary": "v2"}
    assert site.ask(client).json()["model_version"] == "v2"
    listed = client.get("/admin/models", headers=site.headers("developer")).json()
    assert listed["serving"] == "v1" and listed["canary"]["version"] == "v2"
    stopped = client.post("/admin/canary", json={"stop": True}, headers=site.headers("admin")).json()
    assert stopped == {"aliases": {"champion": "v1"}, "canary": None, "decision": None}
    site.until(lambda: site.ask(client).json()["model_version"] == "v1")
    site.until(lambda: not site.engines["v2"].get_stats().alive)
    changes = site.events("llmops.admin")
    assert [e["event.action"] for e in changes] == ["canary_start", "canary_stop"]
    assert all(e["llmops.key.prefix"] in site.keys["admin"] and e["user.roles"] == ["admin"] for e in changes)


@pytest.mark.parametrize("route", ["canary", "ab_test"])
def test_what_makes_no_sense_is_refused(shared_site: Any, shared_client: TestClient, route: str) -> None:
    bodies: list[tuple[dict[str, Any], int]] = [
        ({}, 422), ({"version": "v2", "stop": True}, 422), ({"version": "v2", "share": 1}, 422),
        ({"version": "v2", "shares": 0.1}, 422), ({"version": "v2", "promote": True}, 422), ({"version": "v1"}, 409),
        ({"version": "../v2"}, 409), ({"stop": True}, 200), ({"conclude": True}, 409),
    ]  # fmt: skip
    for body, status in bodies:
        for role, expected in (("admin", status), ("developer", 403)):
            answer = shared_client.post(f"/admin/{route}", json=body, headers=shared_site.headers(role))
            assert answer.status_code == expected, (body, role)
    assert registry_of(shared_site.config).aliases() == {"champion": "v1"}


def test_an_admin_ends_a_trial_with_a_decision(site: Any, client: TestClient) -> None:
    start_canary(site, client, 0.5)
    registry, sides = registry_of(site.config), trials.TrialCounts()
    for n in range(1000):
        sides.canary.add(f"a {n % 50}", 1.0, 5, 5)
        sides.champion.add(f"b {n % 50}", 1.0, 5, 5)
    trials.write_counts(registry, registry.canary(), "another replica", sides)
    done = client.post("/admin/canary", json={"conclude": True}, headers=site.headers("admin")).json()
    assert (done["decision"]["outcome"], done["canary"], done["aliases"]["champion"]) == ("no_regression", None, "v2")


def test_a_stream_of_several_answers_has_one_id_also_if_both_sides_answer(
    site: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_canary(site, client)
    answers = iter([site.engines["v2"].generate])

    def generate_once(request: EngineRequest) -> Stream:
        if generate := next(answers, None):
            return cast("Stream", generate(request))
        raise QueueFull(1, 1)

    monkeypatch.setattr(site.engines["v2"], "generate", generate_once)
    body = {**CHAT, "n": 2, "stream": True}
    lines = client.post("/v1/chat/completions", json=body, headers=site.headers()).text.splitlines()
    ids = {json.loads(line.removeprefix("data: "))["id"] for line in lines if line.startswith("data: {")}
    assert ids == {site.events()[-1]["http.request.id"]}


def test_a_header_asks_for_a_side_everywhere(site: Any, client: TestClient) -> None:
    assert ask_side(site, client, "canary").status_code == 404
    start_canary(site, client, 0.001)
    for name, version in {"canary": "v2", "champion": "v1", "v2": "v2", "v1": "v1"}.items():
        assert ask_side(site, client, name).json()["model_version"] == version
    headers = {**site.headers(), "X-LLMOps-Side": "canary"}
    assert client.post("/v1/chat/completions", json=CHAT, headers=headers).json()["model"] == "support-bot:v2"
    listed = {card["id"] for card in client.get("/v1/models", headers=headers).json()["data"]}
    assert listed == {"support-bot", *(f"support-bot:{one}" for one in ("champion", "canary", "v1", "v2"))}
    assert ask_side(site, client, "nonsense").status_code == 404
    sides = [event["llmops.canary.side"] for event in site.events() if event["event.outcome"] == "success"]
    assert sides == ["canary", "champion", "canary", "champion", "canary"]
