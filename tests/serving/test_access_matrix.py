"""Every route × every role × every kind of bad key, from the app's own table of routes; and what is written of it."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi.testclient import TestClient

from llmops.access.roles import PERMISSIONS, ROLES
from llmops.events.datasets import AUDIT
from llmops.events.spool import Spool
from serving.admission.dependencies import PAGE_HEADER, _list_calls, get_permission
from serving.observe import audit as auditing
from serving.observe.audit import MAX_KINDS, Audit
from tests.serving.provider import ENVIRON, Provider
from tests.serving.test_request_events import ROUTES

DOCS = Path(__file__).parents[2] / "docs" / "access.md"
PUBLIC = {
    "GET /", "GET /healthz", "GET /readyz", "GET /docs", "GET /openapi.json", "POST /signin", "POST /signout",
    "GET /signin/oidc", "GET /signin/oidc/callback",
}  # fmt: skip
JSON = {"Content-Type": "application/json"}
BODIES: dict[str, dict[str, Any]] = {
    **{f"POST {path}": body for path, body in ROUTES.items()},
    "POST /v1/embeddings": {"model": "all-MiniLM-L6-v2", "input": "one"},
    "POST /admin/promote": {"version": "v1"},
    "POST /admin/canary": {"stop": True},
    "POST /admin/ab_test": {"stop": True},
    "POST /admin/review": {"key": "00000000"},
    "POST /admin/review/{id}": {"decision": "accept"},
    "POST /admin/keys": {"role": "user", "owner": "x"},
}


@pytest.fixture
def site(shared_site: Any) -> Any:
    return shared_site


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    return shared_client


@pytest.fixture(scope="module")
def routes(running: Any) -> dict[str, Any]:
    """`METHOD /path` → route, of the whole app."""
    found = [route for route in running[1].app.routes if hasattr(route, "dependant")]
    return {f"{method} {route.path}": route for route in found for method in route.methods}


@pytest.fixture(scope="module")
def running(new_site: Any, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    site = new_site(tmp_path_factory.mktemp("site"), environ=ENVIRON, oidc=provider.settings).release()
    with site.client() as client:
        site.ready(client)
        yield site, client


def call(client: TestClient, name: str, key: str = "", header: str = "X-API-Key", **headers: str) -> Any:
    method, path = name.split(" ")
    if key:
        headers[header] = f"Bearer {key}" if header == "Authorization" else key
    path = path.replace("{prefix}", "00000000").replace("{model}", "nobody").replace("{id}", "nothing")
    return client.request(method, path, headers=headers, json=BODIES.get(name), follow_redirects=False)


def make_bad_keys(site: Any) -> dict[str, str]:
    expired, _ = site.store.create("admin", "late", days=1e-9)
    revoked, key = site.store.create("admin", "gone")
    site.store.revoke(key.prefix)
    _, prefix, secret = site.keys["admin"].split("_", 2)
    return {
        "no key": "",
        "a known prefix with another secret": f"llmops_{prefix}_{secret[::-1]}",
        "the hash": f"llmops_{prefix}_{site.store.check(site.keys['admin']).sha256}",
        "expired": expired,
        "revoked": revoked,
    }


@pytest.mark.parametrize("way", ["X-API-Key", "Authorization", "session of a key", "session of a person"])
def test_each_route_lets_in_exactly_the_roles_that_may(
    site: Any, client: TestClient, routes: dict[str, Any], provider: Provider, way: str
) -> None:
    for role in ROLES:
        client.cookies.clear()
        if way == "session of a key":
            client.post("/signin", data={"api_key": site.keys[role]}, follow_redirects=False)
        elif way == "session of a person":
            provider.sign_in(client, role)
        for name, route in routes.items():
            if permission := get_permission(route):
                by_session = way.startswith("session")
                key, header = ("1", PAGE_HEADER) if by_session else (site.keys[role], way)
                answer = call(client, name, key, header)
                if by_session and not name.startswith("GET "):  # no page of another site may send the header
                    assert call(client, name).status_code == 401
                assert (answer.status_code != 403) == (permission in PERMISSIONS[role]), (name, role, answer.text)
                assert answer.status_code not in (401, 500), (name, role, answer.text)


def test_no_route_lets_a_bad_key_in_and_each_says_why(site: Any, client: TestClient, routes: dict[str, Any]) -> None:
    codes, bad = {"expired": "key_expired", "revoked": "key_revoked"}, make_bad_keys(site)
    for name, route in routes.items():
        for kind, key in bad.items() if get_permission(route) else ():
            answer, browser = call(client, name, key), call(client, name, key, accept="text/html")
            assert answer.status_code == browser.status_code == 401, (name, kind, answer.text)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            code = "invalid_api_key" if name.split(" ")[1].startswith("/v1/") else codes.get(kind, "key_unknown")
            problem = answer.json()
            assert (problem.get("error") or problem)["code"] == code, (name, kind)
            assert not key or key.split("_", 2)[2] not in answer.text + browser.text


def test_nothing_that_a_request_to_a_model_depends_on_runs_in_another_thread(routes: dict[str, Any]) -> None:
    """FastAPI calls plain functions there, and a hand-over costs more than they do."""
    for name in ("POST /generate", "POST /v1/chat/completions", "POST /v1/completions", "POST /v1/embeddings"):
        for call in _list_calls(routes[name].dependant):
            kinds = (call, getattr(call, "__call__", call))  # noqa: B004  an object that can be awaited
            assert any(iscoroutinefunction(one) or isasyncgenfunction(one) for one in kinds), (name, call)


def test_the_public_routes_are_these_and_mind_no_bad_key(client: TestClient, routes: dict[str, Any]) -> None:
    assert {name for name, route in routes.items() if get_permission(route) is None} == PUBLIC
    for name in PUBLIC - {"POST /signin", "GET /signin/oidc/callback"}:
        for key in ("", "llmops_12345678_nothing"):
            assert call(client, name, key).status_code < 400, name


def test_the_documentation_has_the_table_of_the_code(routes: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` \| (\S+) \| (.?) \| (.?) \| (.?) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    documented = {name: (permission.strip("`"), *marks) for name, permission, *marks in rows}

    def format_row(route: Any) -> tuple[str, ...]:
        permission = get_permission(route)
        if permission is None:
            return ("none", "✓", "✓", "✓")
        return (permission, *("✓" if permission in PERMISSIONS[role] else "" for role in ROLES))

    assert documented == {name: format_row(route) for name, route in routes.items()}


# --- keys


def test_keys_are_made_listed_rotated_and_revoked(site: Any, client: TestClient) -> None:
    admin = site.headers("admin")
    body = {"role": "developer", "owner": "ops", "days": 2, "requests_per_minute": 9, "tokens_per_minute": 0}
    body["tokens_per_month"] = 2**40
    made = client.post("/admin/keys", json=body, headers=admin)
    assert made.status_code == 201 and made.headers["Cache-Control"] == "no-store"
    key, prefix = made.json()["key"], made.json()["prefix"]
    assert site.store.check(key).role == "developer"
    listed = client.get("/admin/keys", headers=admin)
    assert listed.headers["Cache-Control"] == "no-store"
    entry = next(entry for entry in listed.json() if entry["prefix"] == prefix)
    assert {name: entry[name] for name in body if name != "days"} == {n: v for n, v in body.items() if n != "days"}
    hashes = {kept.sha256 for kept in site.store.list()}
    assert "sha256" not in listed.text and not any(hash in listed.text for hash in hashes) and key not in listed.text
    rotated = client.post(f"/admin/keys/{prefix}/rotate", json={"hours": 0}, headers=admin).json()["key"]
    assert call(client, "GET /dashboard", key).status_code == 401
    assert call(client, "GET /dashboard", rotated).status_code == 200
    assert client.delete(f"/admin/keys/{prefix}", headers=admin).json()["revoked"]
    assert call(client, "GET /dashboard", rotated).status_code == 401
    assert client.post(f"/admin/keys/{prefix}/rotate", headers=admin).status_code == 422
    assert client.delete("/admin/keys/00000000", headers=admin).status_code == 404
    changes = [e for e in site.events(AUDIT) if e.get("llmops.target.key.prefix") == prefix]
    assert [e["event.action"] for e in changes] == ["create_key", "rotate_key", "revoke_key"]
    assert {e["user.name"] for e in changes} == {f"key {site.keys['admin'].split('_')[1]}"}


def test_a_key_that_makes_no_sense_is_not_made(site: Any, client: TestClient) -> None:
    for more in ({"by": "admin"}, {"days": 1e308}, {"tokens_per_minute": 2**63}, {"tokens_per_month": 2**63}):
        body = {"role": "user", "owner": "x", **more}
        assert client.post("/admin/keys", json=body, headers=site.headers("admin")).status_code == 422


# --- audit


def test_every_decision_is_in_the_audit_with_its_reason(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path, requests_per_minute=1).release()
    bad = make_bad_keys(site)
    with site.client() as client:
        site.ready(client)
        for key in bad.values():
            call(client, "POST /generate", key)
        call(client, "GET /dashboard", site.keys["user"])
        call(client, "GET /dashboard/data", site.keys["developer"])
        call(client, "DELETE /admin/keys/{prefix}", site.keys["admin"])
        for _ in range(3):
            call(client, "POST /generate", site.keys["user"])
        client.post("/generate", content=b"{", headers={**site.headers(), **JSON})
        assert client.post("/generate", content=b"x" * 200_000, headers=site.headers()).status_code == 413
        client.post("/signin", data={"api_key": bad["expired"]})
        client.post("/signin", data={"api_key": site.keys["developer"]}, follow_redirects=False)
        for path in ("/healthz", "/readyz", "/", "/static/style.css", "/openapi.json"):
            client.get(path)
    events = [event for event in site.events(AUDIT) if event["event.action"] == "access"]
    decisions: Counter[tuple[str, str]] = Counter()
    for event in events:
        decisions[event["event.reason"], event.get("url.path", "")] += event["llmops.audit.count"]
    assert decisions == {
        ("missing", "/generate"): 1, ("unknown", "/generate"): 2, ("expired", "/generate"): 1,
        ("revoked", "/generate"): 1, ("limited", "/generate"): 2, ("invalid", "/generate"): 2,
        ("forbidden", "/dashboard"): 1, ("allowed", "/dashboard/data"): 1, ("allowed", "/admin/keys/{prefix}"): 1,
        ("expired", "/signin"): 1, ("allowed", "/signin"): 1,
    }  # fmt: skip
    (answered,) = site.events()  # an allowed request that asks a model is one event, not two
    assert answered["llmops.key.prefix"] in site.keys["user"] and answered["client.address"] == "testclient"
    by_reason = {event["event.reason"]: event for event in reversed(events)}
    forbidden = by_reason["forbidden"]
    assert forbidden["user.roles"] == ["user"] and forbidden["llmops.key.prefix"] in site.keys["user"]
    assert (forbidden["event.outcome"], by_reason["allowed"]["event.outcome"]) == ("failure", "success")
    assert by_reason["expired"]["llmops.key.prefix"] in bad["expired"]
    assert "llmops.key.prefix" not in by_reason["unknown"]  # what somebody presented is not written down
    assert all(by_reason[reason]["http.request.id"] for reason in ("missing", "forbidden", "limited"))


class Flow:
    """An audit with a clock of its own, and what it has written."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder = 0.0, folder
        self.audit = Audit(folder, lambda: self.now)

    def record(self, *addresses: str) -> None:
        for address in addresses:
            scope = {"client": (address, 1), "path": "/generate", "method": "POST", "state": {"id": "x"}}
            self.audit.record_decision(scope, "unknown")

    def read_events(self) -> list[dict[str, Any]]:
        asyncio.run(self.audit.flush())
        with Spool(self.folder) as spool:
            return spool.read("x", 10_000)[1]

    def list_counts(self) -> list[int]:
        return [event["llmops.audit.count"] for event in self.read_events()]


@pytest.fixture
def flow(tmp_path: Path) -> Flow:
    return Flow(tmp_path)


def test_the_first_is_written_at_once_and_the_others_after_a_minute(flow: Flow) -> None:
    flow.record(*["10.0.0.1"] * 5)
    assert flow.list_counts() == [1]
    flow.now = 59.0
    assert flow.list_counts() == [1]
    flow.now = 60.0
    assert flow.list_counts() == [1, 4] and flow.read_events()[1]["client.ip"] == "10.0.0.1"
    flow.record("10.0.0.1")
    asyncio.run(flow.audit.stop())
    assert flow.list_counts() == [1, 4, 1]


@pytest.mark.parametrize("full", [False, True])
def test_a_flood_from_everywhere_stays_small_and_whole(flow: Flow, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    with monkeypatch.context() as patch:
        if full:
            patch.setattr(auditing, "emit_all", Mock(side_effect=OSError("No space left on device")))
        for minute in range(6):
            flow.record(*(f"10.{minute}.{n // 250}.{n % 250}" for n in range(500)))
            flow.now += 60
            asyncio.run(flow.audit.flush())
        assert len(flow.audit._ready) + len(flow.audit._counts) < 3 * MAX_KINDS
    asyncio.run(flow.audit.stop())
    assert sum(flow.list_counts()) == 3000 and len(flow.list_counts()) <= 6 * (MAX_KINDS + 2)


def test_what_is_no_address_is_not_called_one(flow: Flow) -> None:
    flow.record("unix", "", "x" * 5000, "::1", "10.0.0.1\n")
    assert {e.get("client.ip") for e in flow.read_events()} == {None, "::1"}
    assert all(len(e.get("client.address", "")) <= 100 for e in flow.read_events())


def test_no_key_is_on_the_disk(new_site: Any, tmp_path: Path, routes: dict[str, Any], caplog: Any, capfd: Any) -> None:
    """After all kinds of requests with all kinds of keys, the whole home is searched."""
    site = new_site(tmp_path).release()
    bad = [key for kind, key in make_bad_keys(site).items() if key and kind != "the hash"]
    bad.append("llmops_feedbeef_a-secret-of-another-installation")
    with caplog.at_level("DEBUG"), site.client() as client:
        site.ready(client)
        for name in routes:
            for key in bad:
                call(client, name, key)
        for role in ROLES:
            call(client, "POST /generate", site.keys[role])
            client.post("/signin", data={"api_key": site.keys[role]})
            client.get("/dashboard/data")
        client.post("/signin", data={"api_key": bad[-1]})
        fresh = call(client, "POST /admin/keys", site.keys["admin"]).json()["key"]
        client.get("/generate?key=" + fresh, headers={"X-API-Key": fresh})
    site.events(AUDIT)
    secrets = [key.split("_", 2)[2].encode() for key in (*bad, *site.keys.values(), fresh)]
    files = [path for path in site.config.home.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    output = capfd.readouterr()
    output_bytes = (caplog.text + output.out + output.err).encode()
    client_lines = [
        line for line in output_bytes.splitlines() if b"httpx" not in line
    ]  # the test's own client tells its URLs
    assert not any(secret in line for line in client_lines for secret in secrets)
