"""Answers as events, callers who leave, and answers that take too long: on a real socket where it matters."""

import asyncio
import json
import socket
import threading

import httpx
import pytest

from serving.engines.echo import EchoEngine
from serving.http.server_sent_events import sse


def parts(text):
    """(type, data) of the events of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_the_pieces_add_up_and_the_last_event_has_the_usage(site, client):
    answer = site.ask(client, stream=True, max_new_tokens=2)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [data for _, data in parts(answer.text)]
    assert (
        "".join(event["text"] for event in events) == "one two" == site.ask(client, max_new_tokens=2).json()["response"]
    )
    assert all(set(event) == {"text"} for event in events[:-1])
    assert {k: v for k, v in events[-1].items() if k != "text"} == {
        "id": answer.headers["X-Request-ID"],
        "model": "support-bot",
        "model_version": "v1",
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "finish_reason": "length",
    }


def test_a_piece_is_there_before_the_next_one_is_made(site):
    with site.live() as url, httpx.Client() as http:
        engine = site.engines["v1"]
        engine.going.clear()
        threading.Timer(0.2, engine.going.set).start()
        with http.stream(
            "POST", f"{url}/generate", json={"prompt": "a b c", "stream": True}, headers=site.headers()
        ) as r:
            lines = r.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))["text"] == "a"
        (event,) = site.events()
    assert event["llmops.time_to_first_token"] > 1e8


def test_text_with_line_ends_stays_one_event():
    assert sse({"text": "a\n\nb\r\u2028c"}).count("\n") == 2


def test_the_event_of_a_stream_tells_the_same_as_that_of_an_answer(site, client):
    site.ask(client, max_new_tokens=2)
    site.ask(client, max_new_tokens=2, stream=True)
    whole, streamed = site.events()
    assert whole.keys() | {"gen_ai.request.stream"} == streamed.keys()
    same = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons")
    assert all(whole[name] == streamed[name] for name in (*same, "llmops.model.version", "event.outcome"))


def test_the_event_is_there_before_the_streams_last_byte(site):
    with site.live() as url:
        for _ in range(20):
            answer = httpx.post(f"{url}/generate", json={"prompt": "a", "stream": True}, headers=site.headers())
            assert answer.headers["X-Request-ID"] in {event["http.request.id"] for event in site.events()}


@pytest.mark.parametrize(("body", "status"), [({"prompt": ""}, 422), ({"prompt": "bad"}, 500)])
def test_what_goes_wrong_before_the_first_piece_has_a_status_of_its_own(site, body, status):
    with site.client(lambda version: EchoEngine(fail_on="bad")) as client:
        site.ready(client)
        answer = site.ask(client, stream=True, **body)
    assert answer.status_code == status and answer.json()["id"] == answer.headers["X-Request-ID"]


def test_what_goes_wrong_later_is_the_last_event_and_a_failure(site):
    with site.client(lambda version: EchoEngine(fail_on="bad")) as client:
        site.ready(client)
        answer = site.ask(client, stream=True, prompt="good bad")
        (_, first), (kind, problem) = parts(answer.text)
    assert first == {"text": "good"}
    assert kind == "error" and problem["code"] == "internal" and "was said" not in answer.text
    (event,) = site.events()
    assert (event["http.response.status_code"], event["event.outcome"]) == (500, "failure")
    assert event["gen_ai.usage.output_tokens"] == 1


def test_an_engine_that_dies_tells_its_callers(site, client):
    site.engines["v1"].going.clear()
    answers = []
    threads = [threading.Thread(target=lambda s=s: answers.append(site.ask(client, stream=s))) for s in (True, False)]
    for thread in threads:
        thread.start()
    stats = site.engines["v1"].stats
    site.until(lambda: stats().running + stats().waiting == 2)
    site.engines["v1"].die(RuntimeError("out of memory"))
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [503, 503]
    assert all(answer.json()["code"] == "engine_died" and answer.headers["Retry-After"] for answer in answers)


# --- callers who leave


def leave(url, site, body):
    """Send a request on a socket of its own and return the socket."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {site.keys['user']}\r\nContent-Type: application/json\r\n"
    sock = socket.create_connection((host, int(port)))
    sock.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return sock


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("waiting", [True, False])
def test_a_caller_who_leaves_frees_the_slot(new_site, tmp_path, stream, waiting):
    site = new_site(tmp_path, max_batch=1).release()
    with site.live() as url:
        engine = site.engines["v1"]
        engine.going.clear()
        sockets = [leave(url, site, {"prompt": "a " * 20, "stream": stream})]
        site.until(lambda: engine.stats().running == 1)
        if waiting:  # behind the one that is being answered
            sockets.append(leave(url, site, {"prompt": "b", "stream": stream}))
            site.until(lambda: engine.stats().waiting == 1)
        sockets.pop().close()
        if waiting:
            site.until(lambda: engine.stats().waiting == 0)
            assert engine.stats().running == 1
        else:
            site.until(site.events)
            engine.going.set()
            site.until(lambda: engine.stats().running == 0)
        site.until(site.events)
        engine.going.set()
    (left,) = [event for event in site.events() if event["event.outcome"] == "failure"]
    assert left["http.response.status_code"] == 499 and left["event.outcome"] == "failure"
    assert left["error.type"] == "client_left" and left["llmops.model.version"] == "v1"


def test_a_caller_who_takes_nothing_of_its_answer_is_given_up(new_site, tmp_path):
    site = new_site(tmp_path, timeout_s=0.3).release()
    app = site.app()
    body = json.dumps({"prompt": "one two three", "stream": True}).encode()
    headers = [(b"content-type", b"application/json"), (b"x-api-key", site.keys["user"].encode())]
    asked = {"method": "POST", "path": "/generate", "raw_path": b"/generate", "query_string": b"", "headers": headers}
    place = {"client": ("x", 1), "server": ("x", 80), "scheme": "http", "http_version": "1.1"}
    scope = {"type": "http", **asked, **place}
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def run():
        async with app.router.lifespan_context(app):
            while not app.state.parts.models.champion:
                await asyncio.sleep(0.01)
            await app(scope, receive, send)

    asyncio.run(asyncio.wait_for(run(), 20))
    (event,) = site.events()
    assert (event["http.response.status_code"], event["error.type"]) == (499, "client_left")


def test_a_caller_who_leaves_in_the_middle_of_a_stream_frees_the_slot(site):
    with site.live(lambda version: site.engines.setdefault("v1", EchoEngine(token_s=0.02))) as url:
        sock = leave(url, site, {"prompt": "word " * 20, "stream": True})
        site.until(lambda: b"word" in sock.recv(4096))
        sock.close()
        site.until(lambda: site.engines["v1"].stats().running == 0)
        site.until(site.events)
    (event,) = site.events()
    assert event["http.response.status_code"] == 499
    assert 0 < event["gen_ai.usage.output_tokens"] < 20


# --- time


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_is_given_up(new_site, tmp_path, stream):
    site = new_site(tmp_path, timeout_s=0.1).release()
    with site.client() as client:
        site.ready(client)
        site.engines["v1"].going.clear()
        answer = site.ask(client, stream=stream)
        assert answer.status_code == 504 and answer.json()["code"] == "timed_out"
        site.engines["v1"].going.set()
        site.until(lambda: site.engines["v1"].stats().running == 0)
    (event,) = site.events()
    assert event["http.response.status_code"] == 504


def test_a_stream_that_takes_too_long_ends_with_an_error(new_site, tmp_path):
    site = new_site(tmp_path, timeout_s=0.2).release()
    with site.client(lambda version: EchoEngine(token_s=0.05)) as client:
        site.ready(client)
        found = parts(site.ask(client, stream=True, prompt="word " * 20).text)
    assert len(found) > 1 and found[-1][0] == "error" and found[-1][1]["code"] == "timed_out"
    assert site.events()[0]["http.response.status_code"] == 504


# --- sampling


def test_what_the_caller_wants_reaches_the_engine(site, client, monkeypatch):
    requests = []
    generate = EchoEngine.generate
    monkeypatch.setattr(
        EchoEngine, "generate", lambda self, request: requests.append(request) or generate(self, request)
    )
    site.ask(client, temperature=0.7, top_p=0.9, seed=5, stop="two")
    site.ask(client)
    first, second = requests
    assert (first.temperature, first.top_p, first.seed, first.stop) == (0.7, 0.9, 5, ("two",))
    assert (second.temperature, second.top_p, second.seed, second.stop) == (0.0, 1.0, None, ())


@pytest.mark.parametrize(("given", "taken"), [(1e-3, 1e-3), (1e-5, 0), (1e-38, 0), (5e-324, 0), (-0.0, 0)])
def test_a_temperature_that_would_make_logits_overflow_is_greedy(site, client, monkeypatch, given, taken):
    requests = []
    generate = EchoEngine.generate
    monkeypatch.setattr(
        EchoEngine, "generate", lambda self, request: requests.append(request) or generate(self, request)
    )
    assert site.ask(client, temperature=given).status_code == 200
    assert requests[0].temperature == taken


def test_an_answer_ends_before_a_stop_string(site, client):
    answer = site.ask(client, stop=["two"]).json()
    assert answer["response"].strip() == "one" and answer["finish_reason"] == "stop"
