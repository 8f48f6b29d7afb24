"""What the event of a request says, over HTTP: settings, digests, times, the guard's verdict and who answered."""

from __future__ import annotations

import json
import re
import time
from threading import Thread

import httpx
import pytest

from llmops.monitoring.datasets import LOADS
from serving.engines.echo import EchoEngine

ROUTES = {
    "/generate": {"prompt": "one two three"},
    "/v1/chat/completions": {"model": "slm", "messages": [{"role": "user", "content": "one two three"}]},
    "/v1/completions": {"model": "slm", "prompt": "one two three"},
}
each_route = pytest.mark.parametrize("path", ROUTES)
each_way = pytest.mark.parametrize("stream", [False, True])


@pytest.fixture(autouse=True)
def named(site):
    for body in ROUTES.values():
        if "model" in body:
            body["model"] = site.config.release.name


def post(site, client, path, **body):
    return client.post(path, json={**ROUTES[path], **body}, headers=site.headers())


@each_route
@each_way
def test_an_answer_is_told_with_its_settings_digests_and_times(site, client, path, stream):
    answer = post(site, client, path, temperature=0.5, top_p=0.9, seed=7, stop=["x", "y"], stream=stream)
    assert answer.status_code == 200
    [event] = site.events()
    asked = {name.removeprefix("gen_ai.request."): v for name, v in event.items() if name.startswith("gen_ai.request.")}
    asked.pop("max_tokens")
    expected = {"model": site.config.release.name, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop_sequences": 2}
    assert asked == expected | ({"stream": True} if stream else {})
    assert 0 < event["llmops.queue_time"] <= event["llmops.time_to_first_token"] <= event["event.duration"]
    assert (event["llmops.guard.verdict"], event["llmops.canary.side"]) == ("passed", "champion")
    assert re.fullmatch("[0-9a-f]{32}", event["llmops.prompt.digest"])
    assert event["llmops.prompt.digest"] == event["llmops.answer.digest"]  # the engine says what it was asked
    assert "one two three" not in json.dumps(event)


def test_what_was_not_given_is_not_told(site, client):
    site.ask(client)
    [event] = site.events()
    assert {name for name in event if name.startswith("gen_ai.request.")} == {
        "gen_ai.request.model", "gen_ai.request.max_tokens",
    }  # fmt: skip


def test_the_same_text_has_the_same_digest_by_every_route_and_another_under_another_secret(site, new_site, tmp_path):
    def digests(there):
        with there.client() as client:
            there.ready(client)
            for path in ROUTES:
                post(there, client, path)
            there.ask(client, prompt="another")
        found = [event["llmops.prompt.digest"] for event in there.events()]
        assert len(set(found[:3])) == 1 and found[3] != found[0]
        return found[0]

    other = new_site(tmp_path / "other").release()
    assert digests(site) != digests(other)
    again = new_site(tmp_path / "again").release()
    (again.config.home / "serving.secret").write_bytes((site.config.home / "serving.secret").read_bytes())
    assert digests(again) == site.events()[0]["llmops.prompt.digest"]


def test_a_context_and_earlier_turns(site, client):
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "one two three"}]
    site.ask(client)
    site.ask(client, context="some context")
    post(site, client, "/v1/chat/completions", messages=chat)
    plain, with_context, conversation = (event["llmops.prompt.digest"] for event in site.events())
    assert plain == with_context != conversation


def test_several_answers_have_several_digests(site, client):
    post(site, client, "/v1/completions", prompt=["a", "b"], n=2)
    [event] = site.events()
    assert event["gen_ai.request.choice.count"] == 2
    assert len(event["llmops.prompt.digest"]) == 2
    a, again, b, _ = event["llmops.answer.digest"]
    assert a == again != b


def test_that_tokens_were_to_be_told_and_the_end_passed_over_is_told(site, client):
    post(site, client, "/v1/chat/completions", logprobs=True, ignore_eos=True)
    post(site, client, "/v1/completions", prompt="a", logprobs=2)
    post(site, client, "/v1/completions", prompt="a", ignore_eos=False)
    names = ("llmops.request.logprobs", "llmops.request.ignore_eos")
    assert [tuple(map(event.get, names)) for event in site.events()] == [(0, True), (2, None), (None, None)]


def test_that_json_was_asked_for_is_told_though_the_engine_makes_none(site, client):
    answer = post(site, client, "/v1/chat/completions", response_format={"type": "json_object"})
    assert answer.status_code == 400
    [event] = site.events()
    assert (event["gen_ai.output.type"], event["error.type"]) == ("json", "prompt_refused")


@each_way
def test_a_cut_answer_names_the_verdict_and_the_digest_is_of_what_left(site, leaking, stream):
    with site.client(lambda v: site.engines.setdefault(v.name, leaking())) as client:
        site.ready(client)
        site.ask(client, stream=stream)
        [event] = site.events()
    assert (event["llmops.guard.verdict"], event["llmops.guard.rules"]) == ("cut", ["SECRET"])
    assert event["llmops.answer.digest"]


@each_route
def test_what_is_refused_is_told_with_its_settings_and_digest_and_without_a_verdict(site, client, path):
    key = "messages" if "chat" in path else "prompt"
    text = "x" * 201
    value = [{"role": "user", "content": text}] if key == "messages" else text
    answer = post(site, client, path, **{key: value}, temperature=1)
    assert answer.status_code in (400, 422)
    [event] = site.events()
    assert event["gen_ai.request.temperature"] == 1 and event["llmops.prompt.digest"]
    assert not {"llmops.answer.digest", "llmops.guard.verdict", "llmops.queue_time"} & event.keys()


def test_a_failure_tells_who_failed_and_when_it_had_begun(site):
    with site.client(lambda v: site.engines.setdefault(v.name, EchoEngine(fail_on="two"))) as client:
        site.ready(client)
        assert site.ask(client, stream=True).status_code == 200  # it had begun
        [event] = site.events()
    assert event["http.response.status_code"] == 500 and event["event.outcome"] == "failure"
    assert event["llmops.queue_time"] > 0 and event["llmops.canary.side"] == "champion"
    assert not {"llmops.answer.digest", "llmops.guard.verdict"} & event.keys()


def test_who_waits_is_told_to_have_waited(new_site, tmp_path):
    narrow = new_site(tmp_path / "narrow", max_batch=1).release()
    with narrow.live() as url, httpx.Client(base_url=url, headers=narrow.headers()) as client:
        engine, body = narrow.engines["v1"], {"prompt": "one two three"}
        engine.going.clear()
        asking = [Thread(target=client.post, args=("/generate",), kwargs={"json": body}) for _ in range(2)]
        for thread in asking:
            thread.start()
        narrow.until(lambda: engine.stats().running == 1 and engine.stats().waiting == 1)
        time.sleep(1)
        engine.going.set()
        for thread in asking:
            thread.join()
        first, second = sorted(event["llmops.queue_time"] for event in narrow.events())
    assert second >= 1_000_000_000 > first


def test_a_stream_of_which_the_champion_gives_the_rest_keeps_its_id(site):
    def engine(version):
        site.engines[version.name] = EchoEngine(fail_on="boom" if version.name == "v2" else "")
        return site.engines[version.name]

    with site.client(engine) as client:
        site.ready(client)
        trial = {"version": "v2", "share": 0.9999, "override": "test"}
        assert client.post("/admin/canary", json=trial, headers=site.headers("admin")).status_code == 200
        site.until(lambda: site.ask(client).json()["model_version"] == "v2")
        body = {"model": "support-bot", "prompt": ["fine words", "boom words"], "stream": True}
        answer = client.post("/v1/completions", json=body, headers=site.headers())
    ids = {json.loads(line[6:])["id"] for line in answer.text.splitlines() if line.startswith("data: {")}
    event = next(event for event in site.events() if event["url.path"] == "/v1/completions")
    assert event["llmops.canary.side"] == "champion"
    assert ids == {answer.headers["X-Request-ID"]} == {event["http.request.id"]}


def test_the_side_of_a_canary_and_of_its_champion(site):
    def post(side):
        return client.post("/generate", json={"prompt": "a"}, headers={**site.headers(), "X-Llmops-Side": side})

    with site.client() as client:
        site.ready(client)
        trial = {"version": "v2", "share": 0.5}
        assert client.post("/admin/canary", json=trial, headers=site.headers("admin")).status_code == 200
        site.until(lambda: post("canary").status_code == 200)
        post("champion")
        events = [event for event in site.events() if event["http.response.status_code"] == 200]
    answered = [(event["llmops.canary.side"], event["llmops.model.version"]) for event in events]
    assert answered == [("canary", "v2"), ("champion", "v1")]


def test_a_version_under_test_is_told_as_such(site):
    headers = {**site.headers("developer"), "X-Llmops-Side": "v2"}
    with site.client() as client:
        site.ready(client)
        assert client.post("/generate", json={"prompt": "a"}, headers=headers).status_code == 200
        [event] = site.events()
    assert (event["llmops.canary.side"], event["llmops.model.version"]) == ("tested", "v2")


def test_a_guard_that_cannot_be_loaded_is_told_and_nothing_is_served(site, monkeypatch):
    monkeypatch.setattr("serving.guard.Guard.warm", lambda guard: 1 / 0)
    with pytest.raises(ZeroDivisionError), site.client():
        pass
    told = [event for event in site.events(LOADS) if event["event.action"] == "load_guard"]
    assert [(event["event.outcome"], event["error.message"]) for event in told] == [
        ("failure", "ZeroDivisionError: division by zero")
    ]


def test_an_engine_that_dies_is_told(site, client):
    site.engines["v1"].die(RuntimeError("no memory"))
    site.until(lambda: any(event["event.action"] == "die" for event in site.events(LOADS)))
    [event] = [event for event in site.events(LOADS) if event["event.action"] == "die"]
    assert (event["event.outcome"], event["llmops.model.version"]) == ("failure", "v1")


def test_a_model_of_any_length_is_cut_in_the_event(site, client):
    body = {"model": "m" * 30_000, "messages": [{"role": "user", "content": "x"}]}
    answer = client.post("/v1/chat/completions", json=body, headers=site.headers())
    assert answer.status_code == 404 and len(answer.text) < 2000
    (event,) = site.events()
    assert event["gen_ai.request.model"] == "m" * 200 and len(str(event)) < 3000
