"""A/B tests over HTTP: callers keep their side, what they say decides, and nobody is switched without that."""

import random
from typing import Any
from unittest.mock import Mock

import pytest

from llmops.events.datasets import FEEDBACK
from llmops.frame.errors import StateUnavailable
from llmops.release import trials
from tests.serving.echo import EchoEngine


def post(site: Any, client: Any, body: dict[str, Any], role: str = "admin") -> Any:
    return client.post("/admin/ab_test", json=body, headers=site.headers(role))


def start_test(site: Any, client: Any, **body: Any) -> Any:
    answer = post(site, client, {"version": "v2", **body})
    models = client.app.state.parts.models
    site.until(lambda: models.canary)
    return answer


def rate(client: Any, id: str, headers: dict[str, str], **feedback: str) -> None:
    assert client.post("/feedback", json={"id": id, **feedback}, headers=headers).status_code == 201


def make_callers(site: Any, number: int) -> list[dict[str, str]]:
    """Headers of so many callers; the owners of their keys decide their sides, and of the first eight both occur."""
    return [{"X-API-Key": site.add_key(f"{n:08x}", owner=f"{n:08x}")} for n in range(16, 16 + number)]


def count_ratings(site: Any, client: Any, *words: str) -> list[int]:
    going = client.get("/admin/models", headers=site.headers("developer")).json()["canary"]
    return [going[side][word] for side in ("canary", "champion") for word in words or ("up", "down")]


def test_users_who_like_a_version_make_it_win_and_a_command_makes_it_champion(site: Any) -> None:
    """Each caller asks and rates, in random order; the one that answers better is liked."""
    few = site.config.release.model_copy(update={"canary_requests": 20})
    site.config = site.config.model_copy(update={"release": few})
    with site.client() as client:
        site.ready(client)
        assert start_test(site, client).json()["ab_test"]["kind"] == "ab_test"
        chance, sides = random.Random(1), {}
        callers = make_callers(site, 30)
        for n in [m for m in range(30) for _ in range(3)]:
            answer = client.post("/generate", json={"prompt": "one two"}, headers=callers[n]).json()
            assert sides.setdefault(n, answer["model_version"]) == answer["model_version"]
            liked = answer["model_version"] == "v2" or chance.random() < 0.1
            rate(client, answer["id"], callers[n], rating="up" if liked else "down")
        assert set(sides.values()) == {"v1", "v2"} == {e["llmops.model.version"] for e in site.events(FEEDBACK)}
        site.until(lambda: sum(count_ratings(site, client)) == 90)
        done = post(site, client, {"conclude": True, "promote": True}).json()
        assert done["decision"]["outcome"] == "no_regression" and "like it better" in done["decision"]["why"]
        assert done["aliases"]["champion"] == "v2" and done["ab_test"] is None
        site.ready(client, "v2")


def test_ten_keys_of_one_owner_are_one_caller_with_one_vote(site: Any, client: Any) -> None:
    start_test(site, client)
    keys = [{"X-API-Key": site.add_key(f"{n:08x}", owner="shop")} for n in range(16, 26)]
    answers = [client.post("/generate", json={"prompt": "one two"}, headers=key).json() for key in keys]
    assert len({answer["model_version"] for answer in answers}) == 1
    for key in keys:
        rate(client, answers[0]["id"], key, rating="down")
    site.until(lambda: sum(count_ratings(site, client, "requests")) == 10)
    assert sum(count_ratings(site, client, "callers")) == 1 and sum(count_ratings(site, client, "down")) == 1


def test_a_changed_mind_counts_once_and_a_comment_or_a_side_asked_for_nothing(site: Any, client: Any) -> None:
    start_test(site, client)
    id, correction = site.ask(client).json()["id"], {"correction": "No.", "question": "one two three"}
    for body, counted in (
        ({"comment": "hm"}, (0, 0, 0)),
        ({"rating": "down"}, (0, 1, 0)),
        (correction, (0, 1, 1)),
        ({"rating": "up"}, (1, 0, 1)),
    ):
        rate(client, id, site.headers(), **body)
        canary_and_champion = count_ratings(site, client, "up", "down", "corrected")
        assert tuple(map(sum, zip(canary_and_champion[:3], canary_and_champion[3:], strict=True))) == counted
    headers = {**site.headers(), "X-LLMOps-Side": "v2"}
    forced = client.post("/generate", json={"prompt": "one"}, headers=headers).json()
    rate(client, forced["id"], site.headers(), rating="up")
    assert sum(count_ratings(site, client)) == 1
    canary = client.post("/admin/canary", json={"stop": True}, headers=site.headers("admin"))
    assert canary.status_code == 409  # it ends no A/B test
    assert post(site, client, {"stop": True}).json()["ab_test"] is None
    start_test(site, client)
    rate(client, id, site.headers(), rating="down")  # of what was answered in another trial
    assert sum(count_ratings(site, client)) == 0


def test_a_rating_counts_once_for_the_side_that_answered_in_whichever_replica(site: Any, client: Any) -> None:
    start_test(site, client)
    chat = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}]}
    askers, sides = make_callers(site, 8), {"v1": 0, "v2": 0}
    with site.client() as replica:
        site.ready(replica)
        for path, body in (("generate", {"prompt": "one two"}), ("v1/chat/completions", chat)):
            for n, headers in enumerate(askers):
                answer = client.post(f"/{path}", json={**body, "stream": n % 2 == 0}, headers=headers)
                id = answer.headers["X-Request-ID"]
                assert id in answer.text
                sides["v2" if '"v2"' in answer.text or ":v2" in answer.text else "v1"] += 1
                for app, rating in ((client, "up"), (replica, "down"), (replica, "up")):
                    rate(app, id, headers, rating=rating)
        assert count_ratings(site, client) == [sides["v2"], 0, sides["v1"], 0] and sides["v1"] and sides["v2"]
        assert {e["http.request.id"] for e in site.events(FEEDBACK)} == {e["http.request.id"] for e in site.events()}


def test_the_champion_that_answers_in_place_of_the_version_is_named_and_rated_for_neither(site: Any) -> None:
    chat = {"model": "support-bot", "messages": [{"role": "user", "content": "bad"}]}
    with site.client(lambda version: EchoEngine(fail_on="bad" if version.name == "v2" else "")) as client:
        site.ready(client)
        start_test(site, client, share=0.999)
        for stream in (False, True):
            assert '"model_version":"v1"' in site.ask(client, prompt="bad", stream=stream).text
            answer = client.post("/v1/chat/completions", json={**chat, "stream": stream}, headers=site.headers())
            assert answer.status_code == 200 and '"support-bot:v1"' in answer.text
        for prompt in ("bad", "one"):
            rate(client, site.ask(client, prompt=prompt).json()["id"], site.headers(), rating="up")
        assert count_ratings(site, client) == [1, 0, 0, 0]
    answered = [(event["llmops.model.version"], event["event.outcome"]) for event in site.events()]
    assert answered == [("v1", "success")] * 5 + [("v2", "success")]


def test_feedback_is_kept_while_the_database_is_away(site: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start_test(site, client)
    id = site.ask(client).json()["id"]
    monkeypatch.setattr(trials, "rate", Mock(side_effect=StateUnavailable("The database is away.")))
    rate(client, id, site.headers(), rating="up")
    (event,) = site.events(FEEDBACK)
    assert event["http.request.id"] == id and "llmops.model.version" not in event
