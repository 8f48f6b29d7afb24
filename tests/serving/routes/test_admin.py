"""Canaries over HTTP: started and stopped by an admin, asked for by a header, and told about."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from llmops.registry.registry import registry_of
from llmops.release import trials
from llmops.state.database import database_of
from serving.engines.echo import EchoEngine


def start(site: Any, client: TestClient, share: float = 0.999999) -> Any:
    answer = client.post("/admin/canary", json={"version": "v2", "share": share}, headers=site.headers("admin"))
    site.until(lambda: client.app.state.parts.models.canary)  # type: ignore[attr-defined]
    return answer


def side(site: Any, client: TestClient, name: str) -> Any:
    headers = {**site.headers(), "X-LLMOps-Side": name}
    return client.post("/generate", json={"prompt": "one two"}, headers=headers)


def test_an_admin_starts_and_stops_a_canary_and_it_is_written_down(site: Any, client: TestClient) -> None:
    answer = start(site, client)
    assert answer.status_code == 200 and answer.json()["aliases"] == {"champion": "v1", "canary": "v2"}
    assert site.ask(client).json()["model_version"] == "v2"
    listed = client.get("/admin/models", headers=site.headers("developer")).json()
    assert listed["serving"] == "v1" and listed["canary"]["version"] == "v2"
    site.until(
        lambda: client.get("/dashboard/data", headers=site.headers("developer")).json()["serving"]["canary"]["canary"][
            "requests"
        ]
    )
    stopped = client.post("/admin/canary", json={"stop": True}, headers=site.headers("admin")).json()
    assert stopped == {"aliases": {"champion": "v1"}, "canary": None, "decision": None}
    site.until(lambda: site.ask(client).json()["model_version"] == "v1")
    changes = site.events("llmops.admin")
    assert [e["event.action"] for e in changes] == ["canary_start", "canary_stop"]
    assert all(e["llmops.key.prefix"] in site.keys["admin"] and e["user.roles"] == ["admin"] for e in changes)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"version": "v2", "stop": True}, 422),
        ({"version": "v2", "share": 1}, 422),
        ({"version": "v2", "share": 0}, 422),
        ({"version": "v2", "shares": 0.1}, 422),
        ({"version": "v1"}, 409),
        ({"version": "v9"}, 409),
        ({"version": "../v2"}, 409),
        ({"stop": True}, 200),
        ({"stop": True, "conclude": True}, 422),
        ({"conclude": True}, 409),
    ],
)
def test_what_makes_no_sense_is_refused(site: Any, client: TestClient, body: dict[str, Any], status: int) -> None:
    assert client.post("/admin/canary", json=body, headers=site.headers("admin")).status_code == status
    assert client.post("/admin/canary", json=body, headers=site.headers("developer")).status_code == 403
    assert registry_of(site.config).aliases() == {"champion": "v1"}


def test_where_the_database_can_only_be_read_what_is_missing_is_named(site: Any, client: TestClient) -> None:
    database = database_of(site.config)
    database._engine.dispose()
    sa.event.listen(database._engine, "connect", _only_reads)
    headers, prefix = site.headers("admin"), site.keys["user"].split("_")[1]
    try:
        for path, body in (
            ("/admin/promote", {"version": "v2"}),
            ("/admin/rollback", {}),
            ("/admin/canary", {"version": "v2", "share": 0.5}),
            ("/admin/keys", {"role": "user", "owner": "x"}),
            (f"/admin/keys/{prefix}/rotate", {}),
        ):
            refused = client.post(path, json=body, headers=headers)
            assert refused.status_code == 409 and refused.json()["code"] == "state_read_only", refused.text
            assert "state.url" in refused.json()["detail"] and str(site.config.home) not in refused.text
        assert client.delete(f"/admin/keys/{prefix}", headers=headers).status_code == 409
        assert client.get("/admin/models", headers=headers).json()["aliases"] == {"champion": "v1"}
        assert site.ask(client).status_code == 200
    finally:
        sa.event.remove(database._engine, "connect", _only_reads)
        database._engine.dispose()


def _only_reads(connection: Any, _: object) -> None:
    connection.execute("PRAGMA query_only = ON")


@pytest.mark.parametrize(("asked", "outcome"), [(200, "promoted"), (20, "inconclusive")])
def test_an_admin_ends_a_trial_with_a_decision(site: Any, client: TestClient, asked: int, outcome: str) -> None:
    start(site, client)
    registry, sides = registry_of(site.config), trials.Sides()
    for n in range(asked):
        sides.canary.add(f"a {n}", 1.0, 5, 5)
        sides.champion.add(f"b {n}", 1.0, 5, 5)
    trials.write(registry, registry.canary(), "another replica", sides)
    done = client.post("/admin/canary", json={"conclude": True}, headers=site.headers("admin")).json()
    assert (done["decision"]["outcome"], done["canary"]) == (outcome, None)
    assert done["aliases"]["champion"] == ("v2" if outcome == "promoted" else "v1")


def test_a_header_asks_for_a_side_everywhere(site: Any, client: TestClient) -> None:
    assert side(site, client, "canary").status_code == 404
    start(site, client, 0.001)
    for name, version in {"canary": "v2", "champion": "v1", "v2": "v2", "v1": "v1"}.items():
        assert side(site, client, name).json()["model_version"] == version
    headers = {**site.headers(), "X-LLMOps-Side": "canary"}
    chat = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}]}
    assert client.post("/v1/chat/completions", json=chat, headers=headers).json()["model"] == "support-bot:v2"
    assert {card["id"] for card in client.get("/v1/models", headers=headers).json()["data"]} == {
        "support-bot",
        "support-bot:v1",
        "support-bot:v2",
        "all-MiniLM-L6-v2",
    }
    assert side(site, client, "nonsense").status_code == 404


def test_a_request_that_its_caller_gives_up_counts_against_the_side_that_kept_it_waiting(site: Any) -> None:
    with site.live() as url:
        site.until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        admin = site.headers("admin")
        httpx.post(f"{url}/admin/canary", json={"version": "v2", "share": 0.999999}, headers=admin)
        site.until(lambda: "support-bot:v2" in httpx.get(f"{url}/v1/models", headers=site.headers()).text)
        site.engines["v2"].going.clear()
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{url}/generate", json={"prompt": "a", "stream": stream}, headers=site.headers(), timeout=0.5
                )
        seen = partial(httpx.get, f"{url}/admin/models", headers=admin)
        site.until(lambda: seen().json()["canary"]["canary"]["left"] == 2)
        assert seen().json()["canary"]["canary"]["failed"] == seen().json()["canary"]["champion"]["requests"] == 0


def test_each_of_several_answers_to_one_request_counts_and_has_the_champion_behind_it(site: Any) -> None:
    with site.client(lambda v: EchoEngine(fail_on="bad" if v.name == "v2" else "")) as client:
        site.ready(client)
        start(site, client)
        trial = client.app.state.parts.models._trial  # type: ignore[attr-defined]
        chat = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}], "n": 2}
        several = {"model": "support-bot", "prompt": ["one", "bad"], "n": 2}
        for path, body, versions in (("chat/completions", chat, 2), ("completions", several, 4)):
            answer = client.post(f"/v1/{path}", json=body, headers=site.headers())
            assert answer.status_code == 200 and len(answer.json()["choices"]) == versions
        assert (trial.own.canary.answered, trial.own.canary.failed, trial.own.champion.requests) == (4, 2, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_when_the_champion_stands_in_answer_and_event_say_so(site: Any, stream: bool) -> None:
    with site.client(lambda v: EchoEngine(fail_on="one" if v.name == "v2" else "")) as client:
        site.ready(client)
        start(site, client)
        answer = site.ask(client, stream=stream)
        assert answer.status_code == 200 and '"model_version":"v1"' in answer.text
        chat = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}], "stream": stream}
        answer = client.post("/v1/chat/completions", json=chat, headers=site.headers())
        assert answer.status_code == 200 and '"support-bot:v1"' in answer.text
        assert side(site, client, "canary").status_code == 500
    versions = [(e["llmops.model.version"], e["event.outcome"]) for e in site.events()]
    assert versions == [("v1", "success"), ("v1", "success"), ("v2", "failure")]
