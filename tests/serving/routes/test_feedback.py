"""What is kept of feedback, and whose is refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmops.monitoring.datasets import FEEDBACK, SERVING
from serving.admission import signing
from serving.engines.echo import EchoEngine


def send(site, client, role="user", **body):
    return client.post("/feedback", json=body, headers=site.headers(role))


@pytest.fixture
def answered(site, client):
    return site.ask(client).json()["id"]


def test_a_rating_is_an_event_that_joins_the_requests_own(site, client, answered):
    answer = send(site, client, id=answered, rating="up")
    assert answer.status_code == 201
    (event,), (request,) = site.events(FEEDBACK), site.events(SERVING)
    assert event["event.id"] == answer.json()["event"]
    assert event["http.request.id"] == request["http.request.id"] == answered
    assert event["llmops.feedback.rating"] == "up" and event["llmops.key.prefix"] in site.keys["user"]
    assert not any(name in event for name in ("llmops.feedback.question", "llmops.feedback.comment"))


def test_a_correction_brings_its_question_and_no_personal_data(site, client, answered):
    send(
        site,
        client,
        id=answered,
        rating="down",
        question="I am ana@example.com, do you ship to Norway?",
        answer="Yes.",
        correction="No. Write to bob@example.com.",
        comment="Tell carl@example.com too",
    )
    (event,) = site.events(FEEDBACK)
    assert event["llmops.feedback.question"] == "I am <EMAIL_ADDRESS>, do you ship to Norway?"
    assert event["llmops.feedback.correction"] == "No. Write to <EMAIL_ADDRESS>."
    assert "@example.com" not in json.dumps(event)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "rating"),
        ({"rating": "sideways"}, "rating"),
        ({"comment": "  "}, "rating"),
        ({"correction": "No."}, "question"),
        ({"rating": "up", "question": "x"}, "correction"),
        ({"rating": "up", "stars": 5}, "stars"),
        ({"rating": "up", "comment": "x" * 4001}, "comment"),
        ({"rating": "up", "comment": "\ud800"}, "comment"),
    ],
)
def test_feedback_that_says_nothing_or_too_much_is_refused(site, client, answered, body, words):
    content = json.dumps({"id": answered, **body})
    answer = client.post("/feedback", content=content, headers={**site.headers(), "Content-Type": "application/json"})
    assert answer.status_code == 422 and words in answer.json()["detail"]
    assert not site.events(FEEDBACK)


def test_an_invented_id_is_refused(site, client, answered):
    changed = ("0" if answered[0] != "0" else "1") + answered[1:]
    for invented in (
        changed,
        answered[:-1],
        answered + "0",
        "",
        "0" * 48,
        "ü" * 48,
        signing.answered_id(b"another secret", answered, site.keys["user"].split("_")[1]),
    ):
        assert send(site, client, id=invented, rating="up").status_code == 422
    assert not site.events(FEEDBACK)


def test_an_id_is_good_only_where_a_model_answered_and_for_who_asked(site, client, answered):
    body = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}]}
    chat = client.post("/v1/chat/completions", json=body, headers=site.headers())
    stream = site.ask(client, stream=True)
    for id in (chat.json()["id"], chat.headers["X-Request-ID"], stream.headers["X-Request-ID"]):
        assert send(site, client, id=id, rating="up").status_code == 201
        assert send(site, client, "admin", id=id, rating="up").json()["code"] == "feedback_refused"
    for other in (
        client.get("/healthz"),
        client.get("/v1/models", headers=site.headers()),
        site.ask(client, None),  # 401
        site.ask(client, max_new_tokens=0),  # 422
        site.ask(client, prompt="word " * 200),
        send(site, client, id=answered, rating="up"),
    ):
        refused = send(site, client, id=other.headers["X-Request-ID"], rating="up")
        assert refused.status_code == 422 and "answer" in refused.json()["detail"], other.url
    assert len(site.events(FEEDBACK)) == 4


def test_an_answer_that_fails_has_no_id_to_rate(site, new_site, tmp_path):
    def failing(version):
        return site.engines.setdefault(version.name, EchoEngine(fail_on="three"))

    with site.client(failing) as client:
        site.ready(client)
        failed = site.ask(client)
        assert failed.status_code == 500
        assert send(site, client, id=failed.headers["X-Request-ID"], rating="up").status_code == 422


def test_a_question_can_be_compared_with_what_was_asked(site, client, answered):
    texts = {"question": "one two three", "answer": "one two three", "correction": "four"}
    send(site, client, id=answered, **texts)
    send(site, client, id=answered, **texts | {"question": "one two"})
    (asked,), (same, other) = site.events(SERVING), site.events(FEEDBACK)
    for name in ("llmops.prompt.digest", "llmops.answer.digest"):
        assert same[name] == asked[name]
    assert other["llmops.prompt.digest"] != asked["llmops.prompt.digest"]


def test_texts_count_against_the_limits_of_their_key(new_site, tmp_path):
    site = new_site(tmp_path, tokens_per_minute=1000).release()
    with site.client() as client:
        site.ready(client)
        id = site.ask(client, max_new_tokens=5).json()["id"]
        statuses = [send(site, client, id=id, comment="+1 212 555 0100 " * 125).status_code for _ in range(3)]
        assert statuses == [201, 429, 429] and send(site, client, id=id, rating="up").status_code == 201


def test_a_redacting_process_that_was_killed_costs_no_feedback(site, client, answered):
    assert send(site, client, id=answered, comment="I am ana@example.com").status_code == 201
    for _ in range(2):
        process = client.app.state.parts.redaction._child.process
        process.kill()
        process.wait()
        assert send(site, client, id=answered, comment="I am ana@example.com").status_code == 201
    assert {event["llmops.feedback.comment"] for event in site.events(FEEDBACK)} == {"I am <EMAIL_ADDRESS>"}


def test_a_redacting_process_that_does_not_start_is_told(site, client, answered, monkeypatch):
    monkeypatch.setattr("llmops.child.child.sys.executable", "/nowhere/python")
    assert send(site, client, id=answered, comment="Fine").json()["code"] == "redaction_failed"


def test_texts_that_are_not_redacted_are_not_kept(site, client, answered, monkeypatch):
    monkeypatch.setattr(client.app.state.parts.redaction._child, "_most_s", 0.0)
    failed = send(site, client, id=answered, rating="up", comment="I am ana@example.com")
    assert failed.status_code == 503 and failed.json()["code"] == "redaction_failed"
    assert not site.events(FEEDBACK)
    monkeypatch.undo()
    assert send(site, client, id=answered, rating="up", comment="I am ana@example.com").status_code == 201  # a new one


def test_texts_of_one_key_take_no_more_than_their_places(site, client, answered, monkeypatch):
    places = client.app.state.parts.redaction._places
    monkeypatch.setattr(places, "_most", 8)
    monkeypatch.setattr("llmops.child.child.Child.ask", lambda self, asked: going.wait(60) and asked[0])
    going, body = threading.Event(), {"id": answered, "comment": "word"}
    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(send, site, client, **body) for _ in range(2)]
        site.until(lambda: places.taken == 2)
        assert send(site, client, **body).json()["code"] == "queue_full"
        other = site.ask(client, "developer").json()["id"]
        second = pool.submit(send, site, client, "developer", id=other, comment="word")
        site.until(lambda: places.taken == 3)
        assert client.get("/healthz").status_code == 200  # all the while
        going.set()
        assert [one.result().status_code for one in (*first, second)] == [201] * 3


def test_an_id_is_good_in_a_replica_and_after_a_restart(site, client, answered):
    with site.client() as other:
        assert send(site, other, id=answered, rating="down").status_code == 201


def test_the_secret_is_made_once_kept_to_the_owner_and_can_be_given(tmp_path):
    file = tmp_path / "home" / "serving.secret"
    first = signing.secret(file, {})
    assert signing.secret(file, {}) == first and len(first) >= 32
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in file.parent.iterdir()] == ["serving.secret"]
    assert signing.secret(file, {"LLMOPS_SESSION_SECRET": "given"}) == b"given"


def test_where_no_secret_can_be_kept_ids_still_work(tmp_path):
    (tmp_path / "file").write_text("")
    secret = signing.secret(tmp_path / "file" / "serving.secret", {})
    assert signing.is_answered(secret, signing.answered_id(secret, signing.new_request_id(), "ab12"), "ab12")


def test_feedback_that_cannot_be_kept_is_not_said_to_be(site, client, answered, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("serving.routes.feedback.emit", full)
    assert send(site, client, id=answered, rating="up").status_code == 500
