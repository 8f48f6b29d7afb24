"""What is kept of feedback, and whose is refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from llmops.events.datasets import FEEDBACK, SERVING
from llmops.scans.pii import redact_texts
from serving.admission import signing
from tests.serving.echo import EchoEngine


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
    answer = send(site, client, id=answered, rating="up")
    assert answer.status_code == 201
    (event,), (request,) = site.events(FEEDBACK), site.events(SERVING)
    assert event["event.id"] == answer.json()["event"]
    assert event["http.request.id"] == request["http.request.id"] == answered
    assert event["llmops.feedback.rating"] == "up" and event["llmops.key.prefix"] in site.keys["user"]
    assert not any(name in event for name in ("llmops.feedback.question", "llmops.feedback.comment"))


def test_a_correction_brings_its_question_and_no_personal_data(site, client):
    texts = {"question": "I am ana@example.com, do you ship to Norway?", "comment": "Tell carl@example.com too"}
    answered = site.ask(client, prompt=texts["question"]).json()["id"]
    correction = "No. Write to bob@example.com."
    assert send(site, client, id=answered, rating="down", correction=correction, **texts).status_code == 201
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
        ({"correction": "x" * 8000, "question": "x" * 8000, "answer": "x"}, "16000"),
        ({"rating": "up", "comment": "\ud800"}, "comment"),
    ],
)  # fmt: skip
def test_feedback_that_says_nothing_or_too_much_is_refused(site, client, answered, body, words):
    content = json.dumps({"id": answered, **body})
    answer = client.post("/feedback", content=content, headers={**site.headers(), "Content-Type": "application/json"})
    assert answer.status_code == 422 and words in answer.json()["detail"]
    assert not site.events(FEEDBACK)


def test_an_invented_id_is_refused(site, client, answered):
    changed = ("0" if answered[0] != "0" else "1") + answered[1:]
    parts = signing.AnswerId("", signing.NO_DIGEST, signing.NO_DIGEST)
    foreign = signing.sign_answer(b"another secret", signing.make_request_id(), "user", parts)
    for invented in (changed, answered[:-1], answered + "0", "", "ü" * 48, foreign):
        assert send(site, client, id=invented, rating="up").status_code == 422
    assert not site.events(FEEDBACK)


def test_only_an_answer_takes_feedback_and_only_of_the_owner_of_the_key_that_asked(site, client, answered):
    unanswered = [
        client.get("/healthz"),
        client.get("/v1/models", headers=site.headers()),
        site.ask(client, None),
        site.ask(client, prompt=""),
        client.post("/feedback", json={"id": answered, "rating": "up"}, headers=site.headers()),
        client.post("/v1/embeddings", json={"model": "x", "input": "one"}, headers=site.headers()),
    ]
    for answer in unanswered:
        refusal = send(site, client, id=answer.headers["X-Request-ID"], rating="up")
        assert (refusal.status_code, refusal.json()["code"]) == (422, "feedback_refused")
    assert send(site, client, "developer", id=answered, rating="up").status_code == 422
    other, of_ana = site.store.create("user", "another person")[0], site.store.create("user", "user")[0]
    for key, status in ((other, 422), (of_ana, 201)):  # the keys of one owner are one person's
        answer = client.post("/feedback", json={"id": answered, "rating": "up"}, headers={"X-API-Key": key})
        assert answer.status_code == status
    assert len(site.events(FEEDBACK)) == 2


CHAT = {"model": "support-bot", "messages": [{"role": "user", "content": "one two three"}]}
TURNS = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}, *CHAT["messages"]]
TEXTS = {"model": "support-bot", "prompt": ["one two three", "four"]}


@pytest.mark.parametrize(
    ("path", "asked", "stream", "wrong"),
    [
        ("/generate", {"prompt": "one two three"}, False, {"question": 422, "answer": 422}),
        ("/generate", {"prompt": " one two three\n"}, True, {"question": 422, "answer": 201}),
        ("/v1/chat/completions", CHAT, False, {"question": 422, "answer": 422}),
        ("/v1/chat/completions", CHAT, True, {"question": 422, "answer": 201}),
        ("/v1/chat/completions", {**CHAT, "messages": TURNS}, True, {"question": 422, "answer": 201}),
        ("/v1/chat/completions", {**CHAT, "n": 2}, False, {"question": 422, "answer": 422}),
        ("/v1/completions", TEXTS, False, {"right": 422}),  # no single question
        ("/v1/completions", TEXTS, True, {"right": 422}),
    ],
)
def test_a_correction_is_of_the_question_and_the_answer_that_the_id_stands_for(
    site, client, path, asked, stream, wrong
):
    answer = client.post(path, json={**asked, "stream": stream}, headers=site.headers())
    right = {"id": answer.headers["X-Request-ID"], "question": "one two three ", "correction": "No."}
    assert right["id"] in answer.text
    if "messages" not in asked or len(asked["messages"]) == 1:
        right["answer"] = "one two three"  # the engine says what it was asked
    bodies = {"right": right, "question": {**right, "question": "Where?"}, "answer": {**right, "answer": "Never."}}
    for name, status in {"right": 201, **wrong}.items():
        assert send(site, client, **bodies[name]).status_code == status, name
    assert send(site, client, id=right["id"], rating="up").status_code == 201


def test_a_stream_that_fails_before_its_first_word_takes_no_feedback(new_site, tmp_path):
    site = new_site(tmp_path).release()
    with site.client(lambda version: EchoEngine(fail_on="bad")) as client:
        site.ready(client)
        for stream in (False, True):
            failed = site.ask(client, prompt="bad", stream=stream)
            assert send(site, client, id=failed.headers["X-Request-ID"], rating="up").status_code == 422


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
    secret, parts = (
        signing.read_secret(tmp_path / "file" / "serving.secret", {}),
        signing.AnswerId("", "a" * 8, "b" * 8),
    )
    assert signing.read_answer_id(secret, signing.sign_answer(secret, "c" * 32, "ana", parts), "ana") == parts


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
