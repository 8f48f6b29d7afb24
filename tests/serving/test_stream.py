"""Answers as events, callers who leave, and answers that take too long: on a real socket where it matters."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clock import wait_until
from tests.serving.echo import EchoEngine


def parse_events(text):
    """(type, data) of the events of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def test_the_pieces_add_up_and_the_last_one_and_the_event_tell_what_a_whole_answer_does(shared_site, shared_client):
    site, client = shared_site, shared_client
    answer = site.ask(client, stream=True, max_new_tokens=2)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [data for _, data in parse_events(answer.text)]
    whole = site.ask(client, max_new_tokens=2).json()
    assert "".join(event.pop("text") for event in events) == "one two"
    facts = {"model": "support-bot", "model_version": "v1", "finish_reason": "length"}
    facts |= {"id": answer.headers["X-Request-ID"], "usage": {"input_tokens": 3, "output_tokens": 2}}
    assert events[-1] == facts and not any(events[:-1])  # the others have their text alone
    assert whole == facts | {"response": "one two", "id": whole["id"]}
    streamed, whole = site.events()
    assert whole.keys() | {"gen_ai.request.stream"} == streamed.keys()
    same = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons")
    assert all(whole[name] == streamed[name] for name in (*same, "llmops.model.version", "event.outcome"))


@pytest.mark.parametrize(("prompt", "status"), [("", 422), ("a b c d", 422), ("bad", 500), ("good bad", 200)])
def test_what_goes_wrong_before_the_first_piece_has_a_status_and_later_it_is_the_last_event(site, prompt, status):
    with site.client(lambda version: EchoEngine(fail_on="bad", max_context=3)) as client:
        site.ready(client)
        answer, whole = (site.ask(client, stream=stream, prompt=prompt) for stream in (True, False))
        assert site.ask(client).status_code == 200  # it costs one answer, not the app
    assert answer.status_code == status and "was said" not in answer.text + whole.text
    event, *others = site.events()
    assert [one["http.response.status_code"] for one in others] == [whole.status_code, 200]
    if status != 200:
        assert whole.status_code == status and answer.json()["id"] == answer.headers["X-Request-ID"]
        return
    assert whole.status_code == 500
    (_, first), (kind, problem) = parse_events(answer.text)
    assert first == {"text": "good"} and kind == "error" and problem["code"] == "internal"
    assert (event["http.response.status_code"], event["event.outcome"]) == (500, "failure")
    assert event["gen_ai.usage.output_tokens"] == 1
    assert event["llmops.queue_time"] > 0 and event["llmops.canary.side"] == "champion"
    assert not {"llmops.answer.digest", "llmops.guard.verdict"} & event.keys()


def test_a_revoked_key_gets_its_running_answer_and_no_other(site):
    secret, key = site.store.create("user", "shop")
    with site.client() as client, ThreadPoolExecutor() as pool:
        site.ready(client)
        site.engines["v1"].may_step.clear()

        def ask():
            return client.post("/generate", json={"prompt": "a b", "stream": True}, headers={"X-API-Key": secret})

        running = pool.submit(ask)
        wait_until(lambda: site.engines["v1"].get_stats().running)
        client.app.state.parts.keys.revoke(key.prefix)
        assert ask().json()["code"] == "key_revoked"
        site.go()
        assert parse_events(running.result().text)[-1][1]["finish_reason"] == "stop"


# --- callers who leave


def leave(url, site, body):
    """Send a request on a socket of its own and return the socket."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {site.keys['user']}\r\nContent-Type: application/json\r\n"
    sock = socket.create_connection((host, int(port)))
    sock.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return sock


@pytest.fixture(scope="module")
def live(new_site, stepwise, tmp_path_factory):
    site = new_site(tmp_path_factory.mktemp("live"), max_batch=1).release()
    with site.live(lambda v: site.engines.setdefault(v.name, stepwise(max_batch=1))) as url:
        yield site, url


@pytest.fixture
def served(live):
    """A site whose engine answers one at a time, and the URL of its app."""
    live[0].forget_events()
    yield live
    live[0].go()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("waiting", [True, False])
def test_a_caller_who_leaves_frees_the_slot(served, stream, waiting):
    site, url = served
    engine = site.engines["v1"]
    engine.say(0)
    sockets = [leave(url, site, {"prompt": "a " * 20, "stream": stream})]
    site.until(lambda: engine.get_stats().running == 1)
    if waiting:  # behind the one that is being answered
        sockets.append(leave(url, site, {"prompt": "b", "stream": stream}))
        site.until(lambda: engine.get_stats().waiting == 1)
    sockets.pop().close()
    if waiting:
        site.until(lambda: engine.get_stats().waiting == 0)
        assert engine.get_stats().running == 1
    site.until(site.events)
    engine.may_step.set()
    site.until(lambda: engine.get_stats().running == 0 and len(site.events()) == 1 + waiting)
    (left,) = [event for event in site.events() if event["event.outcome"] == "failure"]
    assert left["http.response.status_code"] == 499 and left["error.type"] == "client_left"
    assert left["llmops.model.version"] == "v1"


def test_a_caller_who_takes_nothing_of_its_answer_is_given_up(new_site, tmp_path):
    site = new_site(tmp_path).release()
    app = site.app()
    app.user_middleware[0].kwargs["timeout_s"] = 0.1  # of the pieces, while the whole answer has the usual time
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

    asyncio.run(asyncio.wait_for(run(), 50))
    (event,) = site.events()
    assert (event["http.response.status_code"], event["error.type"]) == (499, "client_left")


def test_an_answer_that_takes_too_long_is_given_up_before_its_first_piece_or_later(new_site, stepwise, tmp_path):
    site, begun = new_site(tmp_path, timeout_s=0.1).release(), []
    with site.client(lambda v: site.engines.setdefault(v.name, stepwise())) as client:
        site.ready(client)
        site.engines["v1"].say(0)
        for stream in (True, False):
            answer = site.ask(client, stream=stream)
            assert answer.status_code == 504 and answer.json()["code"] == "timed_out"

        def has_begun():
            site.engines["v1"].say(2)  # the first one may be taken by a request that is given up
            begun.append(site.ask(client, stream=True))
            return begun[-1].status_code == 200

        site.until(has_begun)
        kind, problem = parse_events(begun[-1].text)[-1]
        assert (kind, problem["code"]) == ("error", "timed_out")
        site.engines["v1"].may_step.set()
        site.until(lambda: site.engines["v1"].get_stats().running == 0)
    assert {event["http.response.status_code"] for event in site.events()} == {504}


def test_what_the_caller_wants_reaches_the_engine(shared_site, shared_client, monkeypatch):
    site, client, requests = shared_site, shared_client, []
    generate = EchoEngine.generate
    monkeypatch.setattr(
        EchoEngine, "generate", lambda self, request: requests.append(request) or generate(self, request)
    )
    site.ask(client, temperature=0.7, top_p=0.9, seed=5, stop="two")
    site.ask(client)
    first, second = requests
    assert (first.temperature, first.top_p, first.seed, first.stop) == (0.7, 0.9, 5, ("two",))
    assert (second.temperature, second.top_p, second.seed, second.stop) == (0.0, 1.0, None, ())
    for given, taken in [(1e-3, 1e-3), (1e-5, 0), (5e-324, 0), (-0.0, 0)]:  # smaller ones make logits overflow
        assert site.ask(client, temperature=given).status_code == 200
        assert requests.pop().temperature == taken
    answer = site.ask(client, stop=["two"]).json()
    assert answer["response"].strip() == "one" and answer["finish_reason"] == "stop"
