"""What is kept of feedback, and whose is refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from llmops.events.datasets import FEEDBACK, SERVING
from llmops.scans.pii import redact_texts
from serving.admission import signing


@pytest.fixture
def site(shared_site):
    return shared_site


@pytest.fixture
def client(shared_client):
    return shared_client


@pytest.fixture
def answered(site, client):
    return site.ask(client).json()["id"]


def send(site, client, role="user", **body):
    return client.post("/feedback", json=body, headers=site.headers(role))


def test_a_rating_is_an_event_that_joins_the_requests_own(site, client, answered):
    answer = send(site, client, "developer", id=answered, rating="up")  # whoever has the id may rate it
    assert answer.status_code == 201
    (event,), (request,) = site.events(FEEDBACK), site.events(SERVING)
    assert event["event.id"] == answer.json()["event"]
    assert event["http.request.id"] == request["http.request.id"] == answered
    assert event["llmops.feedback.rating"] == "up" and event["llmops.key.prefix"] in site.keys["developer"]
    assert not any(name in event for name in ("llmops.feedback.question", "llmops.feedback.comment"))


def test_a_correction_brings_its_question_and_no_personal_data(site, client, answered):
    texts = {"question": "I am ana@example.com, do you ship to Norway?", "comment": "Tell carl@example.com too"}
    send(site, client, id=answered, rating="down", answer="Yes.", correction="No. Write to bob@example.com.", **texts)
    (event,) = site.events(FEEDBACK)
    assert event["llmops.feedback.question"] == "I am <EMAIL_ADDRESS>, do you ship to Norway?"
    assert event["llmops.feedback.correction"] == "No. Write to <EMAIL_ADDRESS>."
    assert "@example.com" not in json.dumps(event)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "rating"), ({"rating": "sideways"}, "rating"), ({"comment": "  "}, "rating"),
        ({"correction": "No."}, "question"), ({"rating": "up", "question": "x"}, "correction"),
        ({"rating": "up", "comment": "x" * 4001}, "comment"),
        ({"correction": "x" * 8000, "question": "x" * 8000, "answer": "x"}, "16000"), ({"rating": "up", "comment": "\ud800"}, "comment"),
    ],
)  # fmt: skip
def test_feedback_that_says_nothing_or_too_much_is_refused(site, client, answered, body, words):
    content = json.dumps({"id": answered, **body})
    answer = client.post("/feedback", content=content, headers={**site.headers(), "Content-Type": "application/json"})
    assert answer.status_code == 422 and words in answer.json()["detail"]
    assert not site.events(FEEDBACK)


def test_an_invented_id_is_refused(site, client, answered):
    changed = ("0" if answered[0] != "0" else "1") + answered[1:]
    foreign = signing.make_request_id(b"another secret")
    for invented in (changed, answered[:-1], answered + "0", "", "ü" * 48, foreign):
        assert send(site, client, id=invented, rating="up").status_code == 422
    assert not site.events(FEEDBACK)


def test_an_id_is_good_in_a_replica_and_after_a_restart(site, answered):
    with site.client() as other:
        assert send(site, other, id=answered, rating="down").status_code == 201


def test_the_secret_is_made_once_kept_to_the_owner_and_can_be_given(tmp_path):
    file = tmp_path / "home" / "serving.secret"
    first = signing.read_secret(file, {})
    assert signing.read_secret(file, {}) == first and len(first) >= 32
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in file.parent.iterdir()] == ["serving.secret"]
    assert signing.read_secret(file, {"LLMOPS_SESSION_SECRET": "given"}) == b"given"


def test_where_no_secret_can_be_kept_ids_still_work(tmp_path):
    (tmp_path / "file").write_text("")
    secret = signing.read_secret(tmp_path / "file" / "serving.secret", {})
    assert signing.is_request_id(secret, signing.make_request_id(secret))


def test_feedback_that_cannot_be_kept_is_not_said_to_be(site, client, answered, monkeypatch):
    monkeypatch.setattr("serving.routes.feedback.emit", Mock(side_effect=OSError("No space left on device")))
    assert send(site, client, id=answered, rating="up").status_code == 500


def test_the_texts_of_feedback_are_charged_to_its_key(site, client, answered):
    """They are searched for personal data, which takes longer than many an answer."""
    key, _ = site.store.create("user", "user", requests_per_minute=0, tokens_per_minute=1000)
    headers = {"X-API-Key": key}
    body = {"id": answered, "rating": "down", "comment": "é" * 300}
    first = client.post("/feedback", json=body, headers=headers)
    assert (first.status_code, first.headers["x-ratelimit-remaining-tokens"]) == (201, str(1000 - 664))
    assert client.post("/feedback", json=body, headers=headers).status_code == 429
    assert client.post("/feedback", json={"id": answered, "rating": "up"}, headers=headers).status_code == 201


def test_one_feedback_at_a_time_is_searched_and_other_requests_are_answered_meanwhile(site, client, monkeypatch):
    started, may_end, running = threading.Semaphore(0), threading.Event(), []
    ids = [site.ask(client).json()["id"] for _ in range(3)]

    def redact(texts, entities):
        running.append(texts)
        started.release()
        may_end.wait(50)
        return redact_texts(texts, entities)

    monkeypatch.setattr("serving.routes.feedback.redact_texts", redact)
    with ThreadPoolExecutor(3) as callers:
        answers = [callers.submit(send, site, client, id=id, comment="hm") for id in ids]
        assert started.acquire(timeout=50)
        assert client.get("/healthz").status_code == 200 and site.ask(client).status_code == 200
        assert len(running) == 1
        may_end.set()
        assert [answer.result().status_code for answer in answers] == [201] * 3
