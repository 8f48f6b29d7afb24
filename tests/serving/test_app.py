"""The app around an echo engine: access, refusals, events, swaps, pages."""

import json
import re
import threading
from unittest.mock import Mock

import pytest
from fastapi import APIRouter

from llmops.config import Config
from llmops.events.datasets import SERVING, SERVING_MODEL
from llmops.events.events import emit_all
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import StateUnavailable
from llmops.release.registry.registry import Registry
from serving.admission.dependencies import PAGE_HEADER, assert_guarded
from serving.routes import health
from tests.serving.echo import EchoEngine

JSON = {"Content-Type": "application/json"}


def ask(client, headers=None, **body):
    return client.post("/generate", json={"prompt": "one two three", **body}, headers=headers or {})


# --- answers


def test_the_query_parameters_and_a_bearer_token_do_the_same(shared_site, shared_client):
    bearer = {"Authorization": f"Bearer {shared_site.keys['user']}"}
    answer = shared_client.post("/generate", params={"prompt": "a b c", "max_length": 2}, headers=bearer).json()
    assert (answer["response"], answer["finish_reason"]) == ("a b", "length")


# --- refusals


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": " \n\t "}, "empty"),
        ({"prompt": "x", "context": "y" * 333}, "333 characters; at most 200"),
        ({"prompt": "x", "temperature": 3}, "temperature"),
        ({"prompt": "x", "input_id": "y"}, "not both"),
        (b'{"\\ud800": 1}', "body: Input should be a valid string"),
        (b'{"prompt": "a", "list[x]": 1}', "body.list[x]: is not known here"),
        (b"[" * 50_000, "cannot be read as JSON: maximum recursion"),
        (b'{"prompt": "\xe9"}', "cannot be read as JSON: 'utf-8' codec"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words_for_its_sender(shared_site, shared_client, body, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = shared_client.post("/generate", content=content, headers={**shared_site.headers(), **JSON})
    assert answer.status_code in (400, 422)
    assert words in answer.json()["detail"] and "function" not in answer.text and "sys." not in answer.text


def test_a_body_that_is_not_said_to_be_json_or_comes_with_a_query_is_refused(shared_site, shared_client):
    headers = {**shared_site.headers(), "Content-Type": "text/plain"}
    answer = shared_client.post("/generate", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 422 and "Content-Type: application/json" in answer.json()["detail"]
    long = shared_client.post("/generate", params={"prompt": "a", "max_length": 2**31}, headers=shared_site.headers())
    assert long.status_code == 422 and "max_length" in long.json()["detail"]
    both = shared_client.post("/generate", params={"prompt": "a"}, json={"prompt": "b"}, headers=shared_site.headers())
    assert both.status_code == 422


def test_an_error_does_not_repeat_what_was_sent_however_long_it_is(shared_site, shared_client):
    for body in ({"prompt": "a", "k" * 50_000: 1}, {"prompt": "a", "max_new_tokens": 10**4000}):
        answer = shared_client.post("/generate", json=body, headers=shared_site.headers())
        assert answer.status_code == 422 and len(answer.text) < 1200
    assert shared_client.post("/generate", content=b"x" * 200_000).status_code == 413  # before anybody looks at it
    assert shared_client.get("/generate").json()["detail"] == "GET is not allowed here; POST is."


# --- access


def test_a_route_that_names_no_permission_stops_the_start(shared_site):
    app = shared_site.client().app
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    app.include_router(router)
    with pytest.raises(RuntimeError, match="/open"):
        assert_guarded(app, frozenset({"/static", "/swagger"}))


def test_a_damaged_database_lets_nobody_in(site):
    with site.client() as client:
        site.ready(client)
        assert ask(client, site.headers()).status_code == 200  # nor one whose key was good a moment ago
        for file in site.config.home.glob("state.db*"):
            file.unlink()
        (site.config.home / "state.db").write_text("{" * 5000)
        site.until(lambda: ask(client, site.headers()).status_code == 503)  # within a second
        site.until(lambda: client.get("/readyz").json()["detail"])
        assert client.get("/readyz").status_code == 200


# --- sessions of browsers


def sign_in(client, key, to="/dashboard"):
    return client.post("/signin", data={"api_key": key, "to": to}, follow_redirects=False)


def test_a_browser_signs_in_once_and_out_again(shared_site, shared_client):
    html = {"Accept": "text/html"}
    first = shared_client.get("/dashboard", headers=html)
    assert first.status_code == 401 and 'name="api_key"' in first.text
    answer = sign_in(shared_client, shared_site.keys["developer"])
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 303 and "httponly" in cookie and "samesite=lax" in cookie
    assert shared_site.keys["developer"].split("_", 2)[2].lower() not in cookie
    assert shared_client.get("/dashboard", headers=html).status_code == 200
    assert shared_client.get("/dashboard/data").status_code == 200
    shared_client.post("/signout")
    assert shared_client.get("/dashboard/data").status_code == 401


def test_a_session_ends_with_its_key_and_changes_nothing_for_another_site(shared_site, shared_client):
    key, entry = shared_site.store.create("admin", "short")
    sign_in(shared_client, key)
    assert shared_client.get("/dashboard/data").status_code == 200
    assert shared_client.post("/admin/promote", json={"version": "v2"}).status_code == 401
    assert ask(shared_client).status_code == 401
    assert ask(shared_client, {PAGE_HEADER: "1"}).status_code == 200
    cookie, another = shared_client.cookies["llmops_session"], shared_site.keys["admin"].split("_")[1]
    for forged in (cookie + "0", cookie.replace(entry.prefix, another)):
        shared_client.cookies.clear()
        headers = {"Cookie": f"llmops_session={forged}"}
        assert shared_client.get("/dashboard/data", headers=headers).status_code == 401
    sign_in(shared_client, key)
    admin = shared_site.headers("admin")
    assert shared_client.delete(f"/admin/keys/{entry.prefix}", headers=admin).status_code == 200
    assert shared_client.get("/dashboard/data").status_code == 401


def test_a_wrong_key_or_too_weak_a_role_is_told_and_signing_in_leads_nowhere_else(shared_site, shared_client):
    wrong = sign_in(shared_client, "<b>nonsense</b>")
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    sign_in(shared_client, shared_site.keys["user"])
    page = shared_client.get("/dashboard", headers={"Accept": "text/html"})
    assert page.status_code == 403 and "developer" in page.text
    for to in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "/\n//e"):
        assert sign_in(shared_client, shared_site.keys["developer"], to).headers["location"] == "/dashboard"


# --- events


def test_every_request_is_an_event_before_its_answer_leaves_the_refused_ones_too(shared_site, shared_client):
    answer = ask(shared_client, shared_site.headers("developer"), max_new_tokens=2).json()
    refusal = ask(shared_client, shared_site.headers(), prompt="").json()
    good, refused = shared_site.events()
    assert [good["http.request.id"], refused["http.request.id"]] == [answer["id"], refusal["id"]]
    ask(shared_client)  # the audit has those whose key nobody has looked at
    shared_client.post("/generate", content=b"{", headers={**shared_site.headers(), **JSON})
    shared_client.get("/readyz")
    assert len(shared_site.events()) == 2
    assert good["llmops.model.version"] == "v1" and good["url.path"] == "/generate"
    assert good["gen_ai.usage.input_tokens"] == 3 and good["gen_ai.usage.output_tokens"] == 2
    assert good["gen_ai.response.finish_reasons"] == ["length"]
    assert good["user.roles"] == ["developer"] and good["llmops.key.prefix"] in shared_site.keys["developer"]
    assert good["gen_ai.operation.name"] == "text_completion"
    assert (refused["event.outcome"], refused["error.type"]) == ("failure", "prompt_refused")
    last = ask(shared_client, shared_site.headers()).json()["id"]
    store = LocalStore(shared_site.config.events)  # the shipper brings them there by itself
    shared_site.until(lambda: last in {event["http.request.id"] for event in store.find(SERVING)})


def test_a_full_disk_costs_the_event_not_the_answer(shared_site, shared_client, monkeypatch):
    monkeypatch.setattr("serving.http.middleware.Spool", Mock(side_effect=OSError("No space left on device")))
    assert ask(shared_client, shared_site.headers()).status_code == 200


def test_the_app_judges_its_answers_and_tells_receivers_that_they_are_slow(site, hook):
    alerts = {"every_s": 0.1, "receivers": [{"name": "chat", "url": hook.url.replace("http", "json")}]}
    site.config = Config(**{**site.config.model_dump(), "alerts": {**alerts, "disk_free": 0}})
    slow = {"http.response.status_code": 200, "event.duration": 1_600_000_000, "url.path": "/generate"}
    with site.client():
        emit_all(site.config.events, SERVING, [slow] * 60)
        site.until(lambda: hook.got)
    alert = json.loads(hook.got[0][2])
    assert (alert["state"], alert["rule"], alert["bound"]) == ("raised", "latency_p95", 1000) and alert["value"] > 1500


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


def test_an_app_whose_database_cannot_be_asked_is_not_ready(new_site, tmp_path, monkeypatch):
    """Neither before the first release, nor when the keys that it knows are too old."""

    def refuse():
        raise StateUnavailable("gone")

    site = new_site(tmp_path)
    with site.client() as client:
        assert client.get("/readyz?model=false").status_code == 200 and client.get("/readyz").status_code == 503
        read = client.app.state.parts.registry.read_served
        monkeypatch.setattr(client.app.state.parts.registry, "read_served", refuse)
        site.until(lambda: "StateUnavailable" in client.get("/readyz").json()["detail"])
        assert client.get("/readyz?model=false").status_code == 200, "keys are known for a while"
        monkeypatch.setattr(health, "STALE_S", 0.0)
        assert client.get("/readyz?model=false").status_code == 503
        monkeypatch.setattr(client.app.state.parts.registry, "read_served", read)
        site.until(lambda: client.get("/readyz?model=false").status_code == 200)


def test_an_app_that_never_read_its_database_is_not_ready(new_site, tmp_path, monkeypatch):
    site = new_site(tmp_path)
    monkeypatch.setattr(Registry, "read_served", Mock(side_effect=StateUnavailable("gone")))
    with site.client() as client:
        site.until(lambda: client.get("/readyz?model=false").status_code == 503)


def test_an_engine_that_died_is_told_and_not_ready_until_it_is_started_again(site):
    may_load = threading.Event()

    class Gated(EchoEngine):
        def _load(self):
            may_load.wait(60)

    engines = [Gated(), EchoEngine()]
    with site.client(lambda version: engines.pop()) as client:
        site.ready(client)
        client.app.state.parts.models.champion.engine.die(RuntimeError("out of memory"))
        site.until(lambda: client.get("/readyz").status_code == 503)
        detail = client.get("/readyz").json()["detail"]
        assert "restarted" in detail and "out of memory" not in detail
        refused = ask(client, site.headers())
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_died") and refused.headers["Retry-After"]
        may_load.set()
        site.until(lambda: client.get("/readyz").status_code == 200)
        assert ask(client, site.headers()).status_code == 200
    [died] = [event for event in site.events(SERVING_MODEL) if event["event.action"] == "die"]
    assert (died["event.outcome"], died["llmops.model.version"]) == ("failure", "v1")


# --- pages


def test_pages_need_nothing_from_elsewhere_no_inline_script_and_share_one_navigation(shared_site, shared_client):
    pages, admin = ["/", "/dashboard", "/drift", "/admin/review", "/docs"], shared_site.headers("admin")
    for path, key in [*((path, admin) for path in pages), ("/dashboard", {})]:  # the last one asks to sign in
        page = shared_client.get(path, headers={"Accept": "text/html", **key})
        assert page.status_code == (200 if key else 401)
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        (navigation,) = re.findall(r"<nav.*?</nav>", page.text, re.DOTALL)
        links = re.findall(r'<a href="([^"]+)"( aria-current="page")?>', navigation)
        assert ([link for link, _ in links], [link for link, here in links if here]) == (pages, [path])
        linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert all(link.startswith("/") for link in linked)
        for link in linked:
            assert not link.startswith(("/static/", "/swagger/")) or shared_client.get(link).status_code == 200, link
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text)
    paths = shared_client.get("/openapi.json").json()["paths"]
    assert "/generate" in paths and "/dashboard" not in paths


def test_static_files_cannot_be_left(shared_client):
    for path in ("/static/../app.py", "/static/%2e%2e/%2e%2e/app.py", "/swagger/../../../etc/passwd"):
        assert shared_client.get(path).status_code == 404
