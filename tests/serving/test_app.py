"""The app around an echo engine: access, refusals, events, swaps, pages."""

import json
import re
import threading
import time

import pytest
from fastapi import APIRouter

from llmops.monitoring.datasets import SERVING
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from serving.admission.dependencies import assert_guarded
from serving.engines.echo import EchoEngine


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def ask(client, headers=None, **body):
    return client.post("/generate", json={"prompt": "one two three", **body}, headers=headers or {})


# --- answers


def test_a_question_is_answered_with_version_and_usage(site, client):
    answer = ask(client, site.headers(), max_new_tokens=2)
    assert answer.status_code == 200
    assert answer.json() == {
        "response": "one two",
        "id": answer.headers["X-Request-ID"],
        "model": "support-bot",
        "model_version": "v1",
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "finish_reason": "length",
    }


def test_the_query_parameters_do_the_same(site, client):
    answer = client.post("/generate", params={"prompt": "a b c", "max_length": 2}, headers=site.headers()).json()
    assert (answer["response"], answer["finish_reason"]) == ("a b", "length")
    whole = client.post("/generate", params={"prompt": "a b c"}, headers=site.headers()).json()
    assert (whole["response"], whole["finish_reason"]) == ("a b c", "stop")


def test_a_bearer_token_is_a_key_too(site, client):
    assert ask(client, {"Authorization": f"Bearer {site.keys['user']}"}).status_code == 200


# --- refusals


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": ""}, ["empty"]),
        ({"prompt": " \n\t "}, ["empty"]),
        ({"prompt": "x" * 201}, ["201", "200"]),
        ({"prompt": "x", "context": "y" * 333}, ["333", "200"]),
        ({"prompt": "x", "max_new_tokens": 0}, ["max_new_tokens"]),
        ({"prompt": "x", "max_new_tokens": 3, "max_length": 3}, ["not both"]),
        ({"prompt": 5}, ["prompt"]),
        ({"prompt": "x", "temperature": 3}, ["temperature"]),
        ({"prompt": "x", "top_p": -0.1}, ["top_p"]),
        ({"prompt": "x", "seed": 2**63}, ["seed"]),
        ({"prompt": "x", "stop": [""]}, ["stop"]),
        ({"prompt": "x", "stop": ["x"] * 17}, ["stop"]),
        ({"prompt": "x", "top_k": 5}, ["top_k"]),
        ({"prompt": "x", "input_id": "y"}, ["not both"]),
        ({"input_id": "y", "context": "z"}, ["not both"]),
        ({}, ["prompt"]),
        ([], ["body"]),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused_with_the_reason(site, client, body, words):
    answer = client.post("/generate", json=body, headers=site.headers())
    assert answer.status_code == 422
    assert all(word in answer.json()["detail"] for word in words)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}', b"\xff", b'{"prompt": NaN}', b"[" * 50_000]
)
def test_no_bytes_make_the_app_fail(site, client, content):
    headers = {**site.headers(), "Content-Type": "application/json"}
    assert client.post("/generate", content=content, headers=headers).status_code in (400, 422)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"prompt": "a", "stop": ["x", 1]}', "body.stop: Input should be a valid string; body.stop.1:"),
        (b'{"prompt": "a", "stop": ["\\ud800"]}', "body.stop.0: Input should be a valid string"),
        (b'{"prompt": "a", "stop": "' + b"x" * 101 + b'"}', "body.stop: String should have at most 100 characters"),
        (b'{"prompt": "a", "list[x]": 1}', "body.list[x]: is not known here"),
        (b'{"prompt": "a", }', "is no JSON: "),
        (b"[" * 50_000, "cannot be read as JSON: maximum recursion"),
        (b'{"prompt": "\xe9"}', "cannot be read as JSON: 'utf-8' codec"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "cannot be read as JSON: Exceeds the limit"),
    ],
)
def test_what_is_wrong_with_a_body_is_told_in_words_for_its_sender(site, client, content, words):
    answer = client.post("/generate", content=content, headers={**site.headers(), "Content-Type": "application/json"})
    assert words in answer.json()["detail"] and "function" not in answer.text and "sys." not in answer.text


def test_a_body_that_does_not_say_that_it_is_json_is_told_to(site, client):
    answer = client.post(
        "/generate", content=b'{"prompt": "a"}', headers={**site.headers(), "Content-Type": "text/plain"}
    )
    assert answer.status_code == 422 and "Content-Type: application/json" in answer.json()["detail"]


def test_an_error_does_not_repeat_what_was_sent_however_long_it_is(site, client):
    for body in ({"prompt": "a", "k" * 50_000: 1}, {"prompt": "a", "max_new_tokens": 10**4000}):
        answer = client.post("/generate", json=body, headers=site.headers())
        assert answer.status_code == 422 and len(answer.text) < 1200


def test_a_route_or_method_that_is_not_there_says_what_is(client):
    assert "/docs" in client.post("/v1/moderations").json()["error"]["message"]
    answer = client.get("/generate")
    assert answer.status_code == 405 and answer.json()["detail"] == "GET is not taken here; POST is."


def test_body_and_query_together_are_refused(site, client):
    answer = client.post("/generate", params={"prompt": "a"}, json={"prompt": "b"}, headers=site.headers())
    assert answer.status_code == 422


def test_a_prompt_longer_than_the_models_context_is_refused(site):
    with site.client(lambda version: EchoEngine(max_context=2)) as client:
        site.ready(client)
        answer = ask(client, site.headers())
    assert answer.status_code == 422
    assert "3" in answer.json()["detail"] and "2" in answer.json()["detail"]


def test_a_huge_body_is_refused_before_anybody_looks_at_it(client):
    assert client.post("/generate", content=b"x" * 200_000).status_code == 413


def test_a_full_queue_says_when_to_come_back(site):
    engine = site.engines.setdefault("v1", EchoEngine(max_queue=1, max_batch=1))
    engine.going.clear()
    with site.client(lambda version: engine) as client:
        site.ready(client)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(client, site.headers()))) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) >= 4)
        engine.going.set()
        for thread in threads:
            thread.join()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 4 and sum(answer.status_code == 200 for answer in answers) == 2
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_an_engine_that_fails_costs_one_answer_not_the_app(site):
    with site.client(lambda version: EchoEngine(fail_on="bad")) as client:
        site.ready(client)
        bad = ask(client, site.headers(), prompt="bad")
        assert bad.status_code == 500 and "was said" not in bad.text
        assert ask(client, site.headers()).status_code == 200
    assert sorted(e["http.response.status_code"] for e in site.events()) == [200, 500]


# --- access


def test_a_route_that_names_no_permission_stops_the_start(site):
    app = site.client().app
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    app.include_router(router)
    with pytest.raises(RuntimeError, match="/open"):
        assert_guarded(app, frozenset({"/static", "/swagger"}))


def test_a_damaged_database_lets_nobody_in(site, client):
    with site.damaged_database():
        assert ask(client, site.headers()).status_code == 503
    assert ask(client, site.headers()).status_code == 200


# --- sessions of browsers


def sign_in(client, key, to="/dashboard"):
    return client.post("/signin", data={"api_key": key, "to": to}, follow_redirects=False)


def test_a_browser_signs_in_once_and_out_again(site, client):
    html = {"Accept": "text/html"}
    first = client.get("/dashboard", headers=html)
    assert first.status_code == 401 and 'name="api_key"' in first.text
    answer = sign_in(client, site.keys["developer"])
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303 and "httponly" in cookie and "samesite=strict" in cookie
    assert site.keys["developer"].split("_", 2)[2].lower() not in cookie
    assert client.get("/dashboard", headers=html).status_code == 200
    assert client.get("/dashboard/data").status_code == 200
    client.post("/signout")
    assert client.get("/dashboard/data").status_code == 401


def test_a_session_ends_with_its_key(site, client):
    key, entry = site.store.create("developer", "short")
    sign_in(client, key)
    assert client.get("/dashboard/data").status_code == 200
    site.store.revoke(entry.prefix)
    assert client.get("/dashboard/data").status_code == 401


def test_a_session_alone_cannot_change_anything(site, client):
    """Without a word of the browser on which page it was; see routes/test_signin.py."""
    sign_in(client, site.keys["admin"])
    assert client.post("/admin/promote", json={"version": "v2"}).status_code == 401
    assert ask(client).status_code == 401


def test_a_forged_or_changed_session_is_refused(site, client):
    sign_in(client, site.keys["user"])
    user = client.cookies["llmops_session"]
    admin_prefix = site.keys["admin"].split("_")[1]
    mac = user.rsplit(".", 1)[1]
    for forged in (f"{admin_prefix}.9999999999.{mac}", f"{user}0", "a.b.c", "..", "ü", mac):
        client.cookies.clear()
        answer = client.get("/dashboard/data", headers={"Cookie": f"llmops_session={forged}".encode()})
        assert answer.status_code == 401


def test_a_wrong_key_or_too_weak_a_role_is_told_on_the_page(site, client):
    wrong = sign_in(client, "<b>nonsense</b>")
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    sign_in(client, site.keys["user"])
    page = client.get("/dashboard", headers={"Accept": "text/html"})
    assert page.status_code == 403 and "developer" in page.text


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:x",
        "/\n//e",
        "/\t/e",
        "",
        "evil.example",
    ],
)
def test_sign_in_leads_nowhere_else(site, client, to):
    assert sign_in(client, site.keys["developer"], to).headers["location"] == "/"


# --- events


def test_every_request_to_generate_is_an_event_the_refused_ones_too(site, client):
    ask(client, site.headers("developer"), max_new_tokens=2)
    ask(client)
    ask(client, site.headers(), prompt="")
    client.post("/generate", content=b"{", headers={**site.headers(), "Content-Type": "application/json"})
    client.get("/readyz")
    events = {event["http.response.status_code"]: event for event in site.events()}
    assert set(events) == {200, 422}
    assert len(site.events()) == 2  # the audit has those whose key nobody has looked at
    good = events[200]
    assert good["llmops.model.version"] == "v1"
    assert good["gen_ai.usage.input_tokens"] == 3 and good["gen_ai.usage.output_tokens"] == 2
    assert good["gen_ai.response.finish_reasons"] == ["length"]
    assert good["event.duration"] > 0 and good["url.path"] == "/generate"
    assert good["user.roles"] == ["developer"]
    assert good["llmops.key.prefix"] in site.keys["developer"]
    assert good["gen_ai.operation.name"] == "text_completion" and good["llmops.time_to_first_token"] > 0
    assert events[422]["event.outcome"] == "failure"
    assert events[422]["error.type"] in ("prompt_refused", "invalid")


def test_events_hold_no_prompt_no_answer_and_no_secret(site, client):
    ask(client, site.headers(), prompt="tangerine secret", context="pomelo")
    text = json.dumps(site.events())
    secret = site.keys["user"].split("_", 2)[2]
    assert "tangerine" not in text and "pomelo" not in text and secret not in text


def test_the_event_is_there_before_the_answer_is(site, client):
    request_id = ask(client, site.headers()).json()["id"]
    assert request_id in {event["http.request.id"] for event in site.events()}


def test_the_shipper_brings_events_to_the_store_by_itself(site, client):
    ask(client, site.headers())
    until(lambda: list(LocalStore(site.config.events).find(SERVING)))


def test_a_full_disk_costs_the_event_not_the_answer(site, client, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("serving.observe.recorder.Spool", full)
    assert ask(client, site.headers()).status_code == 200


# --- champions


def test_without_a_champion_the_app_lives_says_why_and_loads_the_first_one(new_site, tmp_path):
    site = new_site(tmp_path)
    with site.client() as client:
        assert client.get("/healthz").status_code == 200
        unready = client.get("/readyz")
        assert unready.status_code == 503 and "champion" in unready.json()["detail"]
        refused = ask(client, site.headers())
        assert refused.status_code == 503 and "champion" in refused.json()["detail"]
        site.release()
        site.ready(client)
        assert ask(client, site.headers()).json()["model_version"] == "v1"
    assert [event["http.response.status_code"] for event in site.events()] == [503, 200]


def test_a_swap_under_load_fails_no_request(site):
    with site.client(lambda version: EchoEngine(max_queue=100, max_batch=4, load_s=0.2, token_s=0.003)) as client:
        site.ready(client)
        answers, stop = [], threading.Event()

        def hammer():
            while not stop.is_set():
                answers.append(ask(client, site.headers()))

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        site.set_aliases(champion="v2", previous="v1")
        site.ready(client, "v2")
        before = len(answers)
        until(lambda: len(answers) > before + 8)
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    versions = [answer.json()["model_version"] for answer in answers]
    assert versions[0] == "v1" and versions[-1] == "v2"


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(site):
    broken = EchoEngine(load_error=MemoryError("not enough memory"))
    with site.client(lambda version: broken if version.name == "v2" else EchoEngine()) as client:
        site.ready(client)
        site.set_aliases(champion="v2", previous="v1")
        until(lambda: client.get("/readyz").json()["detail"])
        state = client.get("/readyz")
        assert state.status_code == 200 and state.json()["model_version"] == "v1"
        assert "v2" in state.json()["detail"] and "not enough" not in state.json()["detail"]
        assert "not enough" in client.get("/admin/models", headers=site.headers("developer")).json()["detail"]
        assert ask(client, site.headers()).json()["model_version"] == "v1"
        site.set_aliases(champion="v1")
        until(lambda: not client.get("/readyz").json()["detail"])
    drain(site.config.events, site.config.monitoring)
    loads = LocalStore(site.config.events).find("llmops.serving.model")
    assert [(e["llmops.model.version"], e["event.outcome"]) for e in loads] == [("v1", "success"), ("v2", "failure")]


def test_a_damaged_registry_is_told_and_mended_without_a_restart(site, client):
    with site.damaged_database():
        until(lambda: client.get("/readyz").json()["detail"])
        assert client.get("/readyz").status_code == 200
    site.set_aliases(champion="v2")
    site.ready(client, "v2")


def test_an_engine_that_died_is_not_ready_until_it_is_started_again(site):
    may_load = threading.Event()

    class Gated(EchoEngine):
        def _load(self):
            may_load.wait(60)

    engines = [Gated(), dying := EchoEngine()]
    with site.client(lambda version: engines.pop()) as client:
        site.ready(client)
        dying.die(RuntimeError("out of memory"))
        site.until(lambda: client.get("/readyz").status_code == 503)
        assert "restarted" in client.get("/readyz").json()["detail"]
        refused = ask(client, site.headers())
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_died") and refused.headers["Retry-After"]
        may_load.set()
        site.until(lambda: client.get("/readyz").status_code == 200)
        assert ask(client, site.headers()).status_code == 200


def test_an_admin_promotes_and_rolls_back_and_it_is_written_down(site, client):
    assert client.post("/admin/promote", json={"version": "v2"}, headers=site.headers("admin")).status_code == 200
    site.ready(client, "v2")
    listed = client.get("/admin/models", headers=site.headers("developer")).json()
    assert listed["aliases"]["champion"] == listed["serving"] == "v2"
    assert [version["name"] for version in listed["versions"]] == ["v1", "v2"]
    assert client.post("/admin/rollback", headers=site.headers("admin")).json()["aliases"]["champion"] == "v1"
    site.ready(client, "v1")
    unknown = client.post("/admin/promote", json={"version": "v9"}, headers=site.headers("admin"))
    assert unknown.status_code == 409 and "v9" in unknown.json()["detail"]
    drain(site.config.events, site.config.monitoring)
    changes = list(LocalStore(site.config.events).find("llmops.admin"))
    assert [e["event.action"] for e in changes] == ["promote", "rollback"]
    assert all(e["llmops.key.prefix"] in site.keys["admin"] for e in changes)


# --- pages


@pytest.mark.parametrize("path", ["/", "/dashboard", "/docs"])
def test_pages_need_nothing_from_elsewhere_and_no_inline_script(site, client, path):
    page = client.get(path, headers=site.headers("developer"))
    assert page.status_code == 200
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert all(link.startswith("/") for link in linked)
    for link in linked:
        if link.startswith(("/static/", "/swagger/")):
            assert client.get(link).status_code == 200, link
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]


def test_the_description_of_the_api_shows_generate_and_hides_pages(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert "/generate" in paths and "/dashboard" not in paths


def test_static_files_cannot_be_left(client):
    for path in ("/static/../app.py", "/static/%2e%2e/%2e%2e/app.py", "/swagger/../../../etc/passwd"):
        assert client.get(path).status_code == 404
