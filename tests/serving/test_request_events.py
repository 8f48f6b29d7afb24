"""What the event of a request says, over HTTP: settings, digests, times, the guard's verdict and who answered."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmops.access import keys
from llmops.events.datasets import TEXT
from llmops.privacy.erasure.feedback import forget_reviews
from llmops.state.database import database_of
from serving.observe.exchange import Digests

ROUTES = {
    "/generate": {"prompt": "one two three"},
    "/v1/chat/completions": {"model": "support-bot", "messages": [{"role": "user", "content": "one two three"}]},
    "/v1/completions": {"model": "support-bot", "prompt": "one two three"},
}


def post(site, client, path, **body):
    return client.post(path, json={**ROUTES[path], **body}, headers=site.headers())


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_told_with_its_settings_digests_and_times(shared_site, shared_client, path, stream):
    settings = {"temperature": 0.5, "top_p": 0.9, "seed": 7}
    answer = post(shared_site, shared_client, path, **settings, stop=["x", "y"], stream=stream)
    assert answer.status_code == 200
    [event] = shared_site.events()
    asked = {name.removeprefix("gen_ai.request."): v for name, v in event.items() if name.startswith("gen_ai.request.")}
    asked.pop("max_tokens")
    assert asked == {"model": "support-bot", **settings, "stop_sequences": 2} | ({"stream": True} if stream else {})
    assert 0 < event["llmops.queue_time"] <= event["llmops.time_to_first_token"] <= event["event.duration"]
    assert (event["llmops.guard.verdict"], event["llmops.canary.side"]) == ("passed", "champion")
    assert re.fullmatch("[0-9a-f]{32}", event["llmops.prompt.digest"])
    assert event["llmops.prompt.digest"] == event["llmops.answer.digest"]  # the engine says what it was asked
    assert "one two three" not in json.dumps(event)


def test_digests_are_of_what_is_asked_and_said_by_every_route(shared_site, shared_client):
    site, client = shared_site, shared_client
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "one two three"}]
    for path in ROUTES:
        post(site, client, path)
    site.ask(client, context="some context")
    site.ask(client, prompt="another")
    post(site, client, "/v1/chat/completions", messages=turns)
    post(site, client, "/v1/completions", prompt=["a", "b"], n=2)
    *events, several = site.events()
    *same, another, conversation = (event["llmops.prompt.digest"] for event in events)
    assert len(same) == 4 and len({*same}) == 1 and len({same[0], another, conversation}) == 3
    assert several["gen_ai.request.choice.count"] == 2 == len(several["llmops.prompt.digest"])
    a, repeated, b, _ = several["llmops.answer.digest"]
    assert a == repeated != b
    one, restarted, other = (Digests(secret).digest_text("one two three") for secret in (b"x", b"x", b"y"))
    assert one == restarted != other


@pytest.mark.parametrize("path", [*list(ROUTES)[1:], "/v1/embeddings"])
def test_no_field_of_a_request_fills_its_event(shared_site, shared_client, path):
    body = {**ROUTES.get(path, {"input": "one two three"}), "model": "x" * 50_000}
    answer = shared_client.post(path, json=body, headers=shared_site.headers())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    [event] = shared_site.events()
    assert event["error.type"] == "invalid" and len(json.dumps(event)) < 2000


def test_a_running_request_writes_nothing_of_an_erased_key(site, monkeypatch):
    """An erasure deletes the key while the model answers."""
    monkeypatch.setattr(keys, "FRESH_S", 0.0)  # the second is over, in which the app may still know the key
    site.config = site.config.model_copy(
        update={"monitoring": site.config.monitoring.model_copy(update={"keep_text": True})}
    )
    with site.client() as client, ThreadPoolExecutor(1) as pool:
        site.ready(client)
        site.ask(client, "developer")
        site.engines["v1"].may_step.clear()
        answer = pool.submit(site.ask, client)
        site.until(lambda: site.engines["v1"].get_stats().running)
        forget_reviews(database_of(site.config), [], ["00000001"])
        site.go()
        assert answer.result().status_code == 200
    assert [event["llmops.key.prefix"] for event in [*site.events(), *site.events(TEXT)]] == ["00000002"] * 2
