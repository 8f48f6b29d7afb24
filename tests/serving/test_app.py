"""The app around an echo engine: access, refusals, events, swaps, pages."""

import json
import re
import threading
import time

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from llmops.config import Config
from llmops.governance.access import PERMISSIONS, ROLES, KeyStore
from llmops.monitoring.events import SERVING
from llmops.monitoring.sinks import LocalStore
from llmops.monitoring.spool import drain
from serving.app import create_app
from serving.deps import assert_guarded, permission_of
from serving.engines.echo import EchoEngine
from serving.routes import admin, generate, health, pages

ROUTES = [
    route for module in (generate, health, admin, pages) for route in module.router.routes if permission_of(route)
]
PUBLIC = {"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/signin", "/signout"}


def add_version(config, name):
    folder = config.release.registry / config.release.name
    path = folder / "versions" / name
    (path / "servable").mkdir(parents=True)
    facts = ["compared_with", "compress", "base_model", "base_revision", "licence", "quantisation", "interval", "run"]
    version = {**dict.fromkeys([*facts, "dataset", "created"], "x"), "name": name, "status": "promoted"}
    (path / "version.json").write_text(json.dumps(version))


def set_aliases(config, **aliases):
    (config.release.registry / config.release.name / "aliases.json").write_text(json.dumps(aliases))


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Site:
    """A configuration with two versions, v1 the champion, one good key per role, and the app on them."""

    def __init__(self, home, **serving):
        self.config = Config(
            home=home, serving={"poll_s": 0.02, "max_new_tokens": 20, "max_prompt_chars": 200, **serving}
        )
        self.store = KeyStore(self.config.keys)
        self.keys = {role: self.store.create(role, role)[0] for role in ROLES}
        self.engines = {}

    def release(self):
        add_version(self.config, "v1")
        add_version(self.config, "v2")
        set_aliases(self.config, champion="v1")

    def engine(self, version):
        self.engines[version.name] = EchoEngine(max_queue=self.config.serving.max_queue)
        return self.engines[version.name]

    def client(self, engine_for=None):
        return TestClient(create_app(self.config, engine_for or self.engine, environ={}), raise_server_exceptions=False)

    def ready(self, client, version="v1"):
        until(lambda: client.get("/readyz").json()["model_version"] == version)

    def headers(self, role="user"):
        return {"X-API-Key": self.keys[role]}

    def events(self):
        drain(self.config.events, self.config.monitoring)
        return list(LocalStore(self.config.events).find(SERVING))


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.release()
    return site


@pytest.fixture
def client(site):
    with site.client() as client:
        site.ready(client)
        yield client


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
        ({"prompt": "x", "max_new_tokens": 21}, ["21", "20"]),
        ({"prompt": "x", "max_new_tokens": 0}, ["max_new_tokens"]),
        ({"prompt": "x", "max_new_tokens": 3, "max_length": 3}, ["not both"]),
        ({"prompt": 5}, ["prompt"]),
        ({"prompt": "x", "temperature": 1}, ["temperature"]),
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


def test_body_and_query_together_are_refused(site, client):
    answer = client.post("/generate", params={"prompt": "a"}, json={"prompt": "b"}, headers=site.headers())
    assert answer.status_code == 422


def test_a_prompt_longer_than_the_models_context_is_refused(site):
    with site.client(lambda version: EchoEngine(window=2)) as client:
        site.ready(client)
        answer = ask(client, site.headers())
    assert answer.status_code == 422
    assert "3" in answer.json()["detail"] and "2" in answer.json()["detail"]


def test_a_huge_body_is_refused_before_anybody_looks_at_it(client):
    assert client.post("/generate", content=b"x" * 200_000).status_code == 413


def test_a_full_queue_says_when_to_come_back(tmp_path):
    site = Site(tmp_path, max_queue=1)
    site.release()
    gate = threading.Event()

    class Slow(EchoEngine):
        def _answer(self, asks):
            gate.wait(10)
            return super()._answer(asks)

    with site.client(lambda version: Slow(max_queue=1, max_batch=1)) as client:
        site.ready(client)
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(client, site.headers()))) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) >= 4)
        gate.set()
        for thread in threads:
            thread.join()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 4 and sum(answer.status_code == 200 for answer in answers) == 2
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_an_engine_that_fails_costs_one_answer_not_the_app(site):
    class Faulty(EchoEngine):
        def _answer(self, asks):
            if asks[0].prompt == "bad":
                raise RuntimeError("secret detail")
            return super()._answer(asks)

    with site.client(lambda version: Faulty()) as client:
        site.ready(client)
        bad = ask(client, site.headers(), prompt="bad")
        assert bad.status_code == 500 and "secret" not in bad.text
        assert ask(client, site.headers()).status_code == 200
    assert sorted(e["http.response.status_code"] for e in site.events()) == [200, 500]


# --- access


def bad_keys(site):
    expired, _ = site.store.create("admin", "late", days=1e-9)
    revoked, key = site.store.create("admin", "gone")
    site.store.revoke(key.prefix)
    return {"key_unknown": "llmops_12345678_nothing", "key_expired": expired, "key_revoked": revoked}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_every_guarded_route_lets_in_exactly_the_roles_that_may(site, client, route):
    (method,) = route.methods
    bodies = {"/generate": {"prompt": "x"}, "/admin/promote": {"version": "v1"}}
    body = bodies.get(route.path) if method == "POST" else None
    for role in ROLES:
        answer = client.request(method, route.path, headers=site.headers(role), json=body)
        allowed = permission_of(route) in PERMISSIONS[role]
        assert (answer.status_code != 403) == allowed, (role, answer.text)
        assert answer.status_code != 401
    for code, key in {"key_unknown": "", **bad_keys(site)}.items():
        answer = client.request(method, route.path, headers={"X-API-Key": key} if key else {}, json=body)
        assert answer.status_code == 401
        assert answer.json()["code"] == code
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_messages_for_bad_keys_differ_and_repeat_no_secret(site, client):
    answers = {code: ask(client, {"X-API-Key": key}).text for code, key in bad_keys(site).items()}
    details = {json.loads(text)["detail"] for text in answers.values()}
    assert len(details) == 3
    assert not any(key.split("_", 2)[2] in answers[code] for code, key in bad_keys(site).items())


def test_the_table_of_public_routes_is_complete(site):
    app = site.client().app
    everything = [route for route in app.routes if hasattr(route, "dependant")]
    assert {route.path for route in everything if permission_of(route) is None} == PUBLIC
    assert {route.path for route in everything} - PUBLIC == {route.path for route in ROUTES}


def test_a_route_that_names_no_permission_stops_the_start(site):
    app = site.client().app
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    app.include_router(router)
    with pytest.raises(RuntimeError, match="/open"):
        assert_guarded(app, frozenset({"/static", "/swagger"}))


def test_an_unreadable_file_of_keys_lets_nobody_in(site, client):
    site.config.keys.write_text("{")
    assert ask(client, site.headers()).status_code == 503


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


def test_a_session_cannot_change_anything(site, client):
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


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "/\n//e"])
def test_sign_in_leads_nowhere_else(site, client, to):
    assert sign_in(client, site.keys["developer"], to).headers["location"] == "/dashboard"


# --- events


def test_every_request_to_generate_is_an_event_the_refused_ones_too(site, client):
    ask(client, site.headers("developer"), max_new_tokens=2)
    ask(client)
    ask(client, site.headers(), prompt="")
    client.post("/generate", content=b"{", headers={**site.headers(), "Content-Type": "application/json"})
    client.get("/readyz")
    events = {event["http.response.status_code"]: event for event in site.events()}
    assert set(events) == {200, 401, 422}
    assert len(site.events()) == 4
    good = events[200]
    assert good["llmops.model.version"] == "v1"
    assert good["gen_ai.usage.input_tokens"] == 3 and good["gen_ai.usage.output_tokens"] == 2
    assert good["gen_ai.response.finish_reasons"] == ["length"]
    assert good["event.duration"] > 0 and good["url.path"] == "/generate"
    assert good["user.roles"] == ["developer"]
    assert good["llmops.key.prefix"] in site.keys["developer"]
    assert events[401]["error.type"] == "key_unknown" and events[401]["event.outcome"] == "failure"
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

    monkeypatch.setattr("serving.middleware.events.emit", full)
    assert ask(client, site.headers()).status_code == 200


# --- champions


def test_without_a_champion_the_app_lives_says_why_and_loads_the_first_one(tmp_path):
    site = Site(tmp_path)
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
    with site.client(lambda version: EchoEngine(max_queue=100, max_batch=4, load_s=0.2, batch_s=0.01)) as client:
        site.ready(client)
        answers, stop = [], threading.Event()

        def hammer():
            while not stop.is_set():
                answers.append(ask(client, site.headers()))

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        set_aliases(site.config, champion="v2", previous="v1")
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
    class Broken(EchoEngine):
        def _load(self):
            raise MemoryError("not enough memory")

    with site.client(lambda version: Broken() if version.name == "v2" else EchoEngine()) as client:
        site.ready(client)
        set_aliases(site.config, champion="v2", previous="v1")
        until(lambda: client.get("/readyz").json()["detail"])
        state = client.get("/readyz")
        assert state.status_code == 200 and state.json()["model_version"] == "v1"
        assert "v2" in state.json()["detail"] and "not enough" not in state.json()["detail"]
        assert "not enough" in client.get("/admin/models", headers=site.headers("developer")).json()["detail"]
        assert ask(client, site.headers()).json()["model_version"] == "v1"
        set_aliases(site.config, champion="v1")
        until(lambda: not client.get("/readyz").json()["detail"])
    drain(site.config.events, site.config.monitoring)
    loads = LocalStore(site.config.events).find("llmops.serving.model")
    assert [(e["llmops.model.version"], e["event.outcome"]) for e in loads] == [("v1", "success"), ("v2", "failure")]


def test_a_damaged_registry_is_told_and_mended_without_a_restart(site, client):
    aliases = site.config.release.registry / site.config.release.name / "aliases.json"
    aliases.write_text("{")
    until(lambda: client.get("/readyz").json()["detail"])
    assert ask(client, site.headers()).status_code == 200
    set_aliases(site.config, champion="v2")
    site.ready(client, "v2")


def test_an_engine_whose_thread_died_is_not_ready(site, client):
    site.engines["v1"].close()
    state = client.get("/readyz")
    assert state.status_code == 503 and state.json()["detail"]


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
