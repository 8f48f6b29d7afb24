"""A/B tests over HTTP: callers keep their side, what they say decides, and nobody is switched without that."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from llmops.errors import StateUnavailable
from llmops.monitoring.datasets import FEEDBACK
from llmops.release import trials
from serving.engines.echo import EchoEngine


def post(site: Any, client: Any, body: dict[str, Any], role: str = "admin") -> Any:
    return client.post("/admin/ab_test", json=body, headers=site.headers(role))


def begin(site: Any, client: Any, **body: Any) -> Any:
    answer = post(site, client, {"version": "v2", **body})
    models = client.app.state.parts.models
    site.until(lambda: models.canary)
    return answer


def crowd(site: Any, number: int) -> list[dict[str, str]]:
    """Headers of so many callers."""
    return [{"X-API-Key": site.store.create("user", f"caller {n}")[0]} for n in range(number)]


@pytest.fixture
def lenient(site: Any) -> Any:
    """A client of an app that takes few requests for enough to be sure that a version fails nobody."""
    site.config = site.config.model_copy(
        update={"release": site.config.release.model_copy(update={"canary_margin": 0.3})}
    )
    with site.client() as client:
        site.ready(client)
        yield client


def test_users_who_like_a_version_make_it_win_and_a_command_makes_it_champion(site: Any, lenient: Any) -> None:
    """Each caller asks and rates, in random order; the one that answers better is liked."""
    client = lenient
    assert begin(site, client).json()["ab_test"]["kind"] == "ab_test"
    chance, sides = random.Random(1), {}
    callers = crowd(site, 30)
    for n in [m for m in range(30) for _ in range(3)]:
        answer = client.post("/generate", json={"prompt": "one two"}, headers=callers[n]).json()
        assert sides.setdefault(n, answer["model_version"]) == answer["model_version"]
        liked = answer["model_version"] == "v2" or chance.random() < 0.1
        said = {"id": answer["id"], "rating": "up" if liked else "down"}
        assert client.post("/feedback", json=said, headers=callers[n]).status_code == 201
    assert set(sides.values()) == {"v1", "v2"}
    assert {e["llmops.model.version"] for e in site.events(FEEDBACK)} == {"v1", "v2"}
    counted = {"v1": 0, "v2": 0}
    site.until(lambda: sum(_said(site, client, counted)) == 90)
    done = post(site, client, {"conclude": True, "promote": True}).json()
    assert done["decision"]["outcome"] == "won" and "rating" in done["decision"]["why"]
    assert done["aliases"]["champion"] == "v2" and done["ab_test"] is None
    site.until(lambda: client.get("/readyz").json()["model_version"] == "v2")


def _said(site: Any, client: Any, counted: dict[str, int]) -> list[int]:
    going = client.get("/admin/models", headers=site.headers("developer")).json()["canary"]
    return [going[side][word] for side in ("canary", "champion") for word in ("up", "down")]


def test_a_changed_mind_counts_once_and_a_side_that_was_asked_for_does_not(site: Any, client: Any) -> None:
    begin(site, client)
    answer = site.ask(client).json()
    for rating in ("up", "down", "up", "down"):
        client.post("/feedback", json={"id": answer["id"], "rating": rating}, headers=site.headers())
    headers = {**site.headers(), "X-LLMOps-Side": "v2"}
    forced = client.post("/generate", json={"prompt": "one"}, headers=headers).json()
    client.post("/feedback", json={"id": forced["id"], "rating": "up"}, headers=site.headers())
    canary_up, canary_down, champion_up, champion_down = _said(site, client, {})
    assert (canary_up + champion_up, canary_down + champion_down) == (0, 1)


def test_a_comment_or_a_correction_takes_no_thumb_back(site: Any, client: Any) -> None:
    begin(site, client)
    id = site.ask(client).json()["id"]
    correction = {"correction": "No.", "question": "one two three"}
    for body, said in (
        ({"comment": "hm"}, (0, 0, 0)),
        ({"rating": "down"}, (0, 1, 0)),
        (correction, (0, 1, 1)),
        ({"comment": "thank you"}, (0, 1, 1)),
        ({"rating": "up"}, (1, 0, 1)),
        (correction, (1, 0, 1)),
    ):
        assert client.post("/feedback", json={"id": id, **body}, headers=site.headers()).status_code == 201
        going = client.get("/admin/models", headers=site.headers("admin")).json()["canary"]
        assert tuple(going["canary"][word] + going["champion"][word] for word in ("up", "down", "corrected")) == said


@pytest.mark.parametrize("path", ["generate", "v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_rating_counts_once_for_the_side_that_answered_whichever_replica_hears_it(
    site: Any, client: Any, path: str, stream: bool
) -> None:
    begin(site, client)
    chat = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}]}
    body = {**(chat if "chat" in path else {"prompt": "one two"}), "stream": stream}
    askers = crowd(site, 20)  # all on one side once in half a million
    with site.client() as replica:
        site.ready(replica)
        sides = {"v1": 0, "v2": 0}
        for headers in askers:
            answer = client.post(f"/{path}", json=body, headers=headers)
            id = answer.headers["X-Request-ID"]
            assert id in answer.text
            sides["v2" if '"v2"' in answer.text else "v1"] += 1
            for app, rating in ((client, "up"), (replica, "down"), (replica, "up")):
                said = app.post("/feedback", json={"id": id, "rating": rating}, headers=headers)
                assert said.status_code == 201
            foreign = replica.post("/feedback", json={"id": id, "rating": "down"}, headers=site.headers("developer"))
            assert foreign.status_code == 422
        assert _said(site, client, {}) == [sides["v2"], 0, sides["v1"], 0] and sides["v1"] and sides["v2"]
        assert {e["http.request.id"] for e in site.events(FEEDBACK)} == {e["http.request.id"] for e in site.events()}


def test_what_the_champion_says_in_place_of_the_version_is_rated_for_neither(site: Any) -> None:
    with site.client(lambda version: EchoEngine(fail_on="bad" if version.name == "v2" else "")) as client:
        site.ready(client)
        begin(site, client, share=0.999999)
        for body in ({"prompt": "bad"}, {"prompt": "one"}):
            id = client.post("/generate", json=body, headers=site.headers()).json()["id"]
            client.post("/feedback", json={"id": id, "rating": "up"}, headers=site.headers())
        assert _said(site, client, {}) == [1, 0, 0, 0]


def test_feedback_is_kept_while_the_database_is_away(site: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(site, client)
    id = site.ask(client).json()["id"]

    def away(*_: Any) -> Any:
        raise StateUnavailable("The database is away.")

    monkeypatch.setattr(trials, "rate", away)
    assert client.post("/feedback", json={"id": id, "rating": "up"}, headers=site.headers()).status_code == 201
    (event,) = site.events(FEEDBACK)
    assert event["http.request.id"] == id and "llmops.model.version" not in event


def test_what_was_answered_before_the_test_or_is_said_after_it_does_not_count(site: Any, client: Any) -> None:
    early = site.ask(client).json()["id"]
    begin(site, client)
    registry = client.app.state.parts.registry
    started = registry.canary().started
    assert client.post("/feedback", json={"id": early, "rating": "up"}, headers=site.headers()).status_code == 201
    late = site.ask(client).json()["id"]
    trial = client.app.state.parts.models._trial
    site.until(lambda: (trial.own.canary + trial.own.champion).requests == 1)
    done = post(site, client, {"conclude": True}).json()
    assert done["decision"]["outcome"] == "inconclusive" and done["aliases"]["champion"] == "v1"
    site.until(lambda: client.app.state.parts.models._trial is None)
    assert client.post("/feedback", json={"id": late, "rating": "up"}, headers=site.headers()).status_code == 201
    counted = trials.counted(registry, started)
    assert counted.canary.total("up") + counted.champion.total("up") == 0


def test_what_users_like_is_not_promoted_before_it_is_sure_that_it_fails_nobody(site: Any, client: Any) -> None:
    begin(site, client)
    registry, sides = client.app.state.parts.registry, trials.Sides()
    for n in range(300):
        (sides.canary.fail if n % 9 == 0 else partial(sides.canary.add, seconds=1.0, input_tokens=5, output_tokens=5))(
            f"a {n}"
        )
        sides.champion.add(f"b {n}", 1.0, 5, 5)
        sides.canary.rate(f"a {n}", up=1)
        sides.champion.rate(f"b {n}", down=1)
    trials.write(registry, registry.canary(), "another replica", sides)
    done = post(site, client, {"conclude": True, "promote": True}).json()
    assert done["decision"]["outcome"] == "mixed" and "higher rating" in done["decision"]["why"]
    assert done["aliases"]["champion"] == "v1" and done["ab_test"] is None


def test_a_version_on_test_that_fails_is_pulled(site: Any) -> None:
    engines = {"v1": lambda: EchoEngine(), "v2": lambda: EchoEngine(fail_on="bad")}
    with site.client(lambda version: engines[version.name]()) as client:
        site.ready(client)
        begin(site, client)
        for headers in crowd(site, 60):  # some 30 on each side
            assert client.post("/generate", json={"prompt": "bad"}, headers=headers).status_code == 200
        site.until(lambda: client.app.state.parts.registry.canary() is None)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422), ({"version": "v2", "stop": True}, 422), ({"version": "v2", "conclude": True}, 422),
        ({"promote": True}, 422), ({"version": "v2", "promote": True}, 422), ({"version": "v2", "share": 1}, 422),
        ({"version": "v1"}, 409), ({"version": "v9"}, 409), ({"conclude": True}, 409), ({"stop": True}, 200),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(site: Any, client: Any, body: dict[str, Any], status: int) -> None:
    assert post(site, client, body).status_code == status
    assert post(site, client, body, "developer").status_code == 403


def test_a_canary_and_a_test_do_not_go_on_together(site: Any, client: Any) -> None:
    begin(site, client)
    canary = client.post("/admin/canary", json={"version": "v2"}, headers=site.headers("admin"))
    assert canary.status_code == 409 and "one trial at a time" in canary.json()["detail"]
    stopped = client.post("/admin/canary", json={"stop": True}, headers=site.headers("admin"))
    assert stopped.status_code == 409 and client.app.state.parts.registry.canary()
    assert post(site, client, {"stop": True}).json()["ab_test"] is None
