"""The app around an echo engine: access, refusals, events, swaps, pages."""

import json
import re
import threading

import pytest
from fastapi import APIRouter

from llmops.monitoring.datasets import LOADS, SERVING
from llmops.monitoring.sinks.local import LocalStore
from serving.admission.dependencies import assert_guarded
from serving.engines.echo import EchoEngine

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def own_site(new_site, tmp_path):
    """A site whose app, versions and database a test may change; the others share one."""
    return new_site(tmp_path).release()


@pytest.fixture
def own_client(own_site):
    with own_site.client() as client:
        own_site.ready(client)
        yield client


@pytest.fixture
def site(shared_site):
    return shared_site


@pytest.fixture
def client(shared_client):
    return shared_client


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


def test_the_query_parameters_and_a_bearer_token_do_the_same(site, client):
    bearer = {"Authorization": f"Bearer {site.keys['user']}"}
    answer = client.post("/generate", params={"prompt": "a b c", "max_length": 2}, headers=bearer).json()
    assert (answer["response"], answer["finish_reason"]) == ("a b", "length")


# --- refusals


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": " \n\t "}, "empty"),
        ({"prompt": "x" * 201}, "201 characters; at most 200"),
        ({"prompt": "x", "context": "y" * 333}, "333 characters; at most 200"),
        ({"prompt": "x", "max_new_tokens": 21}, "21 new tokens are asked for; at most 20"),
        ({"prompt": "x", "max_new_tokens": 0}, "max_new_tokens"),
        ({"prompt": "x", "max_new_tokens": 3, "max_length": 3}, "not both"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x", "temperature": 3}, "temperature"),
        ({"prompt": "x", "stop": ["x"] * 17}, "stop"),
        ({"prompt": "x", "top_k": 5}, "top_k"),
        ({"prompt": "x", "input_id": "y"}, "not both"),
        ({}, "prompt"),
        (b"{", "is no JSON: "),
        (b'{"\\ud800": 1}', "body: Input should be a valid string"),
        (b'{"prompt": NaN}', "body.prompt: "),
        (b'{"prompt": "a", "stop": ["x", 1]}', "body.stop: Input should be a valid string; body.stop.1:"),
        (b'{"prompt": "a", "list[x]": 1}', "body.list[x]: is not known here"),
        (b"[" * 50_000, "cannot be read as JSON: maximum recursion"),
        (b'{"prompt": "\xe9"}', "cannot be read as JSON: 'utf-8' codec"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "cannot be read as JSON: Exceeds the limit"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason_in_words_for_its_sender(site, client, body, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/generate", content=content, headers={**site.headers(), **JSON})
    assert answer.status_code in (400, 422)
    assert words in answer.json()["detail"] and "function" not in answer.text and "sys." not in answer.text


def test_a_body_that_is_not_said_to_be_json_or_comes_with_a_query_is_refused(site, client):
    headers = {**site.headers(), "Content-Type": "text/plain"}
    answer = client.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 422 and "Content-Type: application/json" in answer.json()["detail"]
    both = client.post("/generate", params={"prompt": "a"}, json={"prompt": "b"}, headers=site.headers())
    assert both.status_code == 422


def test_an_error_does_not_repeat_what_was_sent_however_long_it_is(site, client):
    for body in ({"prompt": "a", "k" * 50_000: 1}, {"prompt": "a", "max_new_tokens": 10**4000}):
        answer = client.post("/generate", json=body, headers=site.headers())
        assert answer.status_code == 422 and len(answer.text) < 1200
    assert client.post("/generate", content=b"x" * 200_000).status_code == 413  # before anybody looks at it
    assert client.get("/generate").json()["detail"] == "GET is not taken here; POST is."


def test_an_engine_that_fails_or_refuses_costs_one_answer_not_the_app(own_site):
    with own_site.client(lambda version: EchoEngine(fail_on="bad", max_context=3)) as client:
        own_site.ready(client)
        bad = ask(client, own_site.headers(), prompt="bad")
        assert bad.status_code == 500 and "was said" not in bad.text
        too_long = ask(client, own_site.headers(), prompt="one two three four")
        assert too_long.status_code == 422 and re.search("4.*3", too_long.json()["detail"])
        assert ask(client, own_site.headers()).status_code == 200
    assert sorted(e["http.response.status_code"] for e in own_site.events()) == [200, 422, 500]


# --- access


def test_a_route_that_names_no_permission_stops_the_start(site):
    app = site.client().app
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    app.include_router(router)
    with pytest.raises(RuntimeError, match="/open"):
        assert_guarded(app, frozenset({"/static", "/swagger"}))


def test_a_damaged_database_lets_nobody_in_and_is_mended_without_a_restart(own_site, own_client):
    with own_site.damaged_database():
        assert ask(own_client, own_site.headers()).status_code == 503
        own_site.until(lambda: own_client.get("/readyz").json()["detail"])
        assert own_client.get("/readyz").status_code == 200
    own_site.set_aliases(champion="v2")
    own_site.ready(own_client, "v2")
    assert ask(own_client, own_site.headers()).status_code == 200


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


def test_a_session_ends_with_its_key_and_cannot_change_anything(site, client):
    key, entry = site.store.create("admin", "short")
    sign_in(client, key)
    assert client.get("/dashboard/data").status_code == 200
    assert client.post("/admin/promote", json={"version": "v2"}).status_code == 401
    assert ask(client).status_code == 401
    site.store.revoke(entry.prefix)
    assert client.get("/dashboard/data").status_code == 401


def test_a_wrong_key_or_too_weak_a_role_is_told_on_the_page_and_signing_in_leads_nowhere_else(site, client):
    wrong = sign_in(client, "<b>nonsense</b>")
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    sign_in(client, site.keys["user"])
    page = client.get("/dashboard", headers={"Accept": "text/html"})
    assert page.status_code == 403 and "developer" in page.text
    for to in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "/\n//e"):
        assert sign_in(client, site.keys["developer"], to).headers["location"] == "/dashboard"


# --- events


def test_every_request_to_generate_is_an_event_before_its_answer_leaves_the_refused_ones_too(site, client):
    asked = [ask(client, site.headers("developer"), max_new_tokens=2), ask(client, site.headers(), prompt="")]
    good, refused = site.events()
    assert [good["http.request.id"], refused["http.request.id"]] == [answer.json()["id"] for answer in asked]
    ask(client)  # the audit has those whose key nobody has looked at
    client.post("/generate", content=b"{", headers={**site.headers(), **JSON})
    client.get("/readyz")
    assert len(site.events()) == 2
    assert good["llmops.model.version"] == "v1" and good["url.path"] == "/generate"
    assert good["gen_ai.usage.input_tokens"] == 3 and good["gen_ai.usage.output_tokens"] == 2
    assert good["gen_ai.response.finish_reasons"] == ["length"]
    assert good["user.roles"] == ["developer"] and good["llmops.key.prefix"] in site.keys["developer"]
    assert good["gen_ai.operation.name"] == "text_completion"
    assert (refused["event.outcome"], refused["error.type"]) == ("failure", "prompt_refused")
    last = ask(client, site.headers()).json()["id"]
    store = LocalStore(site.config.events)  # the shipper brings them there by itself
    site.until(lambda: last in {event["http.request.id"] for event in store.find(SERVING)})


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


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(own_site):
    site, broken = own_site, EchoEngine(load_error=MemoryError("not enough memory"))
    with site.client(lambda version: broken if version.name == "v2" else EchoEngine()) as client:
        site.ready(client)
        site.set_aliases(champion="v2", previous="v1")
        site.until(lambda: client.get("/readyz").json()["detail"])
        state = client.get("/readyz").json()
        assert "v2" in state["detail"] and "not enough" not in state["detail"]
        assert "not enough" in client.get("/admin/models", headers=site.headers("developer")).json()["detail"]
        assert state["model_version"] == ask(client, site.headers()).json()["model_version"] == "v1"
    loads = [(e["llmops.model.version"], e["event.outcome"]) for e in site.events(LOADS)]
    assert loads == [("v1", "success"), ("v2", "failure")]


def test_an_engine_that_died_is_told_and_not_ready_until_it_is_started_again(own_site):
    site, may_load = own_site, threading.Event()

    class Gated(EchoEngine):
        def _load(self):
            may_load.wait(60)

    engines = [Gated(), EchoEngine()]
    with site.client(lambda version: engines.pop()) as client:
        site.ready(client)
        client.app.state.parts.models.champion.engine.die(RuntimeError("out of memory"))
        site.until(lambda: client.get("/readyz").status_code == 503)
        assert "restarted" in client.get("/readyz").json()["detail"]
        refused = ask(client, site.headers())
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_died") and refused.headers["Retry-After"]
        may_load.set()
        site.until(lambda: client.get("/readyz").status_code == 200)
        assert ask(client, site.headers()).status_code == 200
    [died] = [event for event in site.events(LOADS) if event["event.action"] == "die"]
    assert (died["event.outcome"], died["llmops.model.version"]) == ("failure", "v1")


def test_an_admin_promotes_and_rolls_back_and_it_is_written_down(own_site, own_client):
    site, client = own_site, own_client
    assert client.post("/admin/promote", json={"version": "v2"}, headers=site.headers("admin")).status_code == 200
    site.ready(client, "v2")
    listed = client.get("/admin/models", headers=site.headers("developer")).json()
    assert listed["aliases"]["champion"] == listed["serving"] == "v2"
    assert [version["name"] for version in listed["versions"]] == ["v1", "v2"]
    assert client.post("/admin/rollback", headers=site.headers("admin")).json()["aliases"]["champion"] == "v1"
    site.ready(client, "v1")
    unknown = client.post("/admin/promote", json={"version": "v9"}, headers=site.headers("admin"))
    assert unknown.status_code == 409 and "v9" in unknown.json()["detail"]
    changes = site.events("llmops.admin")
    assert [e["event.action"] for e in changes] == ["promote", "rollback"]
    assert all(e["llmops.key.prefix"] in site.keys["admin"] for e in changes)


# --- pages


def test_pages_need_nothing_from_elsewhere_and_no_inline_script(site, client):
    for path in ("/", "/dashboard", "/docs"):
        page = client.get(path, headers=site.headers("developer"))
        assert page.status_code == 200 and "script-src 'self'" in page.headers["Content-Security-Policy"]
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert all(link.startswith("/") for link in linked)
        for link in linked:
            assert not link.startswith(("/static/", "/swagger/")) or client.get(link).status_code == 200, link
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)
    paths = client.get("/openapi.json").json()["paths"]
    assert "/generate" in paths and "/dashboard" not in paths


def test_static_files_cannot_be_left(client):
    for path in ("/static/../app.py", "/static/%2e%2e/%2e%2e/app.py", "/swagger/../../../etc/passwd"):
        assert client.get(path).status_code == 404
