"""Every route × every role × every kind of bad key, from the app's own table of routes; and what is written of it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llmops.access.roles import PERMISSIONS, ROLES, Role
from llmops.config import Config
from llmops.monitoring.datasets import AUDIT
from llmops.monitoring.spool import Spool
from serving.admission.dependencies import permission_of
from serving.app import create_app
from serving.observe import audit as auditing
from serving.observe.audit import MOST_KINDS, Audit

DOCS = Path(__file__).parents[2] / "docs" / "access.md"
PUBLIC = {
    "GET /healthz", "GET /readyz", "GET /docs", "GET /openapi.json", "GET /signin", "POST /signin", "POST /signout",
}  # fmt: skip
JSON = {"Content-Type": "application/json"}
BODIES: dict[str, dict[str, Any]] = {
    "POST /generate": {"prompt": "x"},
    "POST /v1/chat/completions": {"model": "support-bot", "messages": [{"role": "user", "content": "x"}]},
    "POST /v1/completions": {"model": "support-bot", "prompt": "x"},
    "POST /v1/embeddings": {"model": "all-MiniLM-L6-v2", "input": "x"},
    "POST /admin/promote": {"version": "v1"},
    "POST /admin/canary": {"stop": True},
    "POST /admin/ab_test": {"stop": True},
    "POST /admin/review": {"key": "00000000"},
    "POST /admin/review/{id}": {"decision": "accept"},
    "POST /admin/keys": {"role": "user", "owner": "x"},
}


def table(folder: Path) -> dict[str, Any]:
    """`METHOD /path` → route, of the whole app."""
    app = create_app(Config(home=folder), lambda version: None, environ={})  # type: ignore[arg-type, return-value]
    routes = [route for route in app.routes if hasattr(route, "dependant")]
    return {f"{method} {route.path}": route for route in routes for method in route.methods}


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return table(tmp_path_factory.mktemp("routes"))


def call(client: TestClient, name: str, key: str = "", header: str = "X-API-Key", **headers: str) -> Any:
    method, path = name.split(" ")
    if key:
        headers[header] = f"Bearer {key}" if header == "Authorization" else key
    path = path.replace("{prefix}", "00000000").replace("{model}", "nobody").replace("{id}", "nothing")
    return client.request(method, path, headers=headers, json=BODIES.get(name), follow_redirects=False)


def bad_keys(site: Any) -> dict[str, str]:
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


def test_the_public_routes_are_these_and_no_others(routes: dict[str, Any]) -> None:
    assert {name for name, route in routes.items() if permission_of(route) is None} == PUBLIC


def test_each_route_lets_in_exactly_the_roles_that_may(site: Any, client: TestClient, routes: dict[str, Any]) -> None:
    for name, route in routes.items():
        if permission := permission_of(route):
            for role in ROLES:
                for header in ("X-API-Key", "Authorization"):
                    answer = call(client, name, site.keys[role], header)
                    assert (answer.status_code != 403) == (permission in PERMISSIONS[role]), (name, role, answer.text)
                    assert answer.status_code not in (401, 500), (name, role, answer.text)


def test_no_route_lets_a_bad_key_in_and_each_says_why(site: Any, client: TestClient, routes: dict[str, Any]) -> None:
    codes = {"expired": "key_expired", "revoked": "key_revoked"}
    bad = bad_keys(site)
    for name, route in routes.items():
        if not permission_of(route):
            continue
        for kind, key in bad.items():
            answer = call(client, name, key)
            assert answer.status_code == 401, (name, kind, answer.text)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            code = "invalid_api_key" if name.split(" ")[1].startswith("/v1/") else codes.get(kind, "key_unknown")
            problem = answer.json()
            assert (problem.get("error") or problem)["code"] == code, (name, kind)
            assert not key or key.split("_", 2)[2] not in answer.text
            browser = call(client, name, key, accept="text/html")
            assert browser.status_code == 401 and (not key or key.split("_", 2)[2] not in browser.text)


def test_public_routes_ask_for_no_key_and_mind_no_bad_one(client: TestClient) -> None:
    for name in PUBLIC - {"POST /signin"}:
        for key in ("", "llmops_12345678_nothing"):
            assert call(client, name, key).status_code < 400, name


@pytest.mark.parametrize(
    "key",
    [
        "x" * 5000, "llmops_" + "_" * 3000, "Bearer llmops_x", "null", "' OR 1=1 --", "{{7*7}}", "../../keys.json",
        "llmops_\x7f_ü", "é" * 100, "llmops__", "_" * 3, "llmops_%0d%0aSet-Cookie:a=b_x",
    ],
)  # fmt: skip
def test_no_strange_key_gets_in_or_breaks_anything(client: TestClient, key: str) -> None:
    for header in (b"X-API-Key", b"Authorization"):
        value = key.encode("latin-1")
        answer = client.get("/admin/keys", headers={header: b"Bearer " + value if header[:1] == b"A" else value})
        assert answer.status_code == 401 and "set-cookie" not in answer.headers


def test_no_header_can_be_smuggled_into_an_answer(site: Any) -> None:
    with site.live() as url:
        port = int(url.rsplit(":", 1)[1])
        for smuggled in (b"llmops_a_b\r\nSet-Cookie: a=b", b"llmops_a_b\nSet-Cookie: a=b", b"llmops_a\x00_b"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(
                    b"GET /admin/keys HTTP/1.1\r\nHost: x\r\nX-API-Key: " + smuggled + b"\r\nConnection: close\r\n\r\n"
                )
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
            assert answer.split(b" ")[1] in (b"400", b"401") and b"set-cookie" not in answer.lower()


def test_the_documentation_has_the_table_of_the_code(routes: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `([A-Z]+ /\S*)` \| (\S+) \| (.?) \| (.?) \| (.?) \|", DOCS.read_text("utf-8"), re.MULTILINE)
    said = {name: (permission.strip("`"), *marks) for name, permission, *marks in rows}

    def marks(route: Any) -> tuple[str, ...]:
        permission = permission_of(route)
        if permission is None:
            return ("none", "✓", "✓", "✓")
        return (permission, *("✓" if permission in PERMISSIONS[role] else "" for role in ROLES))

    assert said == {name: marks(route) for name, route in routes.items()}


# --- keys


def test_keys_are_made_listed_rotated_and_revoked(site: Any, client: TestClient) -> None:
    admin = site.headers("admin")
    body = {"role": "developer", "owner": "ops", "days": 2, "requests_per_minute": 9, "tokens_per_minute": 0}
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


@pytest.mark.parametrize(
    "body",
    [
        {}, {"role": "root", "owner": "x"}, {"role": "user"}, {"role": "user", "owner": " "},
        {"role": "user", "owner": "a\nb"}, {"role": "user", "owner": "x", "days": 0},
        {"role": "user", "owner": "x", "days": 1e308}, {"role": "user", "owner": "x", "requests_per_minute": -1},
        {"role": "user", "owner": "x", "by": "admin"}, {"role": "user", "owner": "x", "tokens_per_minute": 2**63},
    ],
)  # fmt: skip
def test_a_key_that_makes_no_sense_is_not_made(site: Any, client: TestClient, body: dict[str, Any]) -> None:
    before = len(site.store.list())
    assert client.post("/admin/keys", json=body, headers=site.headers("admin")).status_code == 422
    assert len(site.store.list()) == before


def test_nobody_mints_above_the_own_role(site: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if developers were allowed to manage keys one day."""
    monkeypatch.setitem(PERMISSIONS, "developer", PERMISSIONS["developer"] | {"manage_keys"})
    developer = site.headers("developer")
    assert client.post("/admin/keys", json={"role": "user", "owner": "x"}, headers=developer).status_code == 201
    assert client.post("/admin/keys", json={"role": "admin", "owner": "x"}, headers=developer).status_code == 403
    prefix = site.keys["admin"].split("_")[1]
    assert client.delete(f"/admin/keys/{prefix}", headers=developer).status_code == 403
    assert client.post(f"/admin/keys/{prefix}/rotate", headers=developer).status_code == 403
    assert site.store.check(site.keys["admin"])


def test_a_session_ends_with_the_secret_that_it_was_begun_with(site: Any, client: TestClient) -> None:
    def session(key: str) -> str:
        client.cookies.clear()
        client.post("/signin", data={"api_key": key}, follow_redirects=False)
        return client.cookies["llmops_session"]

    def status(cookie: str) -> int:
        client.cookies.clear()
        return client.get("/admin/keys", headers={"Cookie": f"llmops_session={cookie}"}).status_code

    old = site.keys["admin"]
    prefix = old.split("_")[1]
    before = session(old)
    fresh, _ = site.store.rotate(prefix, hours=1)
    late, good = session(old), session(fresh)
    assert [status(cookie) for cookie in (before, late, good)] == [200, 200, 200]  # the old secret is still good, too
    newest, _ = site.store.rotate(prefix, hours=1)
    assert [status(cookie) for cookie in (before, late, good)] == [401, 401, 200]
    newer = session(newest)
    site.store.rotate(prefix, hours=0)  # a secret that got out is useless at once, and so is what was begun with it
    assert [status(cookie) for cookie in (good, newer)] == [401, 401]


def test_only_who_got_an_answer_may_rate_it_and_is_named(site: Any, client: TestClient) -> None:
    rating = {"id": site.ask(client).json()["id"], "rating": "down"}
    for role, status in (("developer", 422), ("admin", 422), ("user", 201)):
        assert client.post("/feedback", json=rating, headers=site.headers(role)).status_code == status
    (event,) = site.events("llmops.feedback")
    assert event["llmops.key.prefix"] in site.keys["user"]


# --- audit


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "FLUSH_S", 0.05)


def decisions(site: Any) -> dict[tuple[str, str], int]:
    """(reason, route) → how many, of the audit."""
    counts: dict[tuple[str, str], int] = {}
    for event in site.events(AUDIT):
        if event["event.action"] == "access":
            kind = (event["event.reason"], event.get("url.path", ""))
            counts[kind] = counts.get(kind, 0) + event["llmops.audit.count"]
    return counts


def test_every_decision_is_in_the_audit_with_its_reason(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path, requests_per_minute=1).release()
    bad = bad_keys(site)
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
        client.post("/signin", data={"api_key": bad["expired"]})
        client.post("/signin", data={"api_key": site.keys["developer"]}, follow_redirects=False)
        for path in ("/healthz", "/readyz", "/", "/static/style.css", "/openapi.json"):
            client.get(path)
    assert decisions(site) == {
        ("missing", "/generate"): 1,
        ("unknown", "/generate"): 2,
        ("expired", "/generate"): 1,
        ("revoked", "/generate"): 1,
        ("forbidden", "/dashboard"): 1,
        ("allowed", "/dashboard/data"): 1,
        ("allowed", "/admin/keys/{prefix}"): 1,
        ("limited", "/generate"): 2,
        ("invalid", "/generate"): 1,
        ("allowed", "/"): 1,
        ("expired", "/signin"): 1,
        ("allowed", "/signin"): 1,
    }
    (answered,) = site.events()  # an allowed request that asks a model is one event, not two
    assert answered["llmops.key.prefix"] in site.keys["user"] and answered["client.address"] == "testclient"
    by_reason = {e["event.reason"]: e for e in reversed(site.events(AUDIT)) if e["event.action"] == "access"}
    assert by_reason["forbidden"]["user.roles"] == ["user"]
    assert by_reason["forbidden"]["llmops.key.prefix"] in site.keys["user"]
    assert by_reason["forbidden"]["event.outcome"] == "failure" and by_reason["allowed"]["event.outcome"] == "success"
    assert by_reason["expired"]["llmops.key.prefix"] in bad["expired"]
    assert "llmops.key.prefix" not in by_reason["unknown"]  # what somebody presented is not written down
    assert all(by_reason[reason]["http.request.id"] for reason in ("missing", "forbidden", "limited"))


def test_a_flood_of_refused_requests_makes_few_events_and_loses_no_number(site: Any, fast: None) -> None:
    with site.client() as client:
        site.ready(client)
        for n in range(300):
            call(client, "POST /generate", f"llmops_{n:08x}_guess")
            client.post("/generate", content=b"{", headers=JSON)
    audit = [e for e in site.events(AUDIT) if e["event.action"] == "access"]
    assert decisions(site) == {("unknown", "/generate"): 300, ("invalid", "/generate"): 300}
    assert len(audit) == 4 and not site.events()
    assert sum("event.start" in event for event in audit) == 2


class Flow:
    """An audit with a clock of its own, and what it has written."""

    def __init__(self, folder: Path) -> None:
        self.now, self.folder = 0.0, folder
        self.audit = Audit(folder, lambda: self.now)

    def note(self, address: str, reason: str = "unknown", path: str = "/generate") -> None:
        scope = {"client": (address, 1), "path": path, "method": "POST", "state": {"id": "x"}}
        self.audit.note(scope, reason)

    def written(self) -> list[dict[str, Any]]:
        with Spool(self.folder) as spool:
            return spool.read("x", 10_000)[1]


@pytest.fixture
def flow(tmp_path: Path) -> Iterator[Flow]:
    yield Flow(tmp_path)


def test_the_first_is_written_at_once_and_the_others_after_a_minute(flow: Flow) -> None:
    for _ in range(5):
        flow.note("10.0.0.1")
    asyncio.run(flow.audit.flush())
    assert [e["llmops.audit.count"] for e in flow.written()] == [1]
    flow.now = 59.0
    asyncio.run(flow.audit.flush())
    assert len(flow.written()) == 1
    flow.now = 60.0
    asyncio.run(flow.audit.flush())
    assert [e["llmops.audit.count"] for e in flow.written()] == [1, 4]
    assert flow.written()[1]["client.ip"] == "10.0.0.1"
    flow.note("10.0.0.1")
    asyncio.run(flow.audit.stop())
    assert [e["llmops.audit.count"] for e in flow.written()] == [1, 4, 1]


def test_a_flood_from_everywhere_stays_small_too(flow: Flow) -> None:
    for minute in range(3):
        for n in range(5000):
            flow.note(f"10.{minute}.{n // 250}.{n % 250}")
        flow.now += 60
        asyncio.run(flow.audit.flush())
    asyncio.run(flow.audit.stop())
    assert sum(e["llmops.audit.count"] for e in flow.written()) == 15_000
    assert len(flow.written()) <= 3 * (MOST_KINDS + 2)


def test_on_a_full_disk_nothing_is_lost_and_memory_stays_small(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(auditing, "emit_all", full)
        for _ in range(30):
            for n in range(500):
                flow.note(f"10.0.{n // 250}.{n % 250}")
            flow.now += 60
            asyncio.run(flow.audit.flush())
        assert len(flow.audit._ready) + len(flow.audit._counted) < 3 * MOST_KINDS
    asyncio.run(flow.audit.stop())
    assert sum(e["llmops.audit.count"] for e in flow.written()) == 15_000


def test_what_is_no_address_is_not_called_one(flow: Flow) -> None:
    for address in ("unix", "", "x" * 5000, "::1", "10.0.0.1\n"):
        flow.note(address)
    asyncio.run(flow.audit.flush())
    assert {e.get("client.ip") for e in flow.written()} == {None, "::1"}
    assert all(len(e.get("client.address", "")) <= 100 for e in flow.written())


def test_no_key_is_anywhere_on_the_disk_or_in_the_log(
    site: Any, fast: None, routes: dict[str, Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """After all kinds of requests with all kinds of keys, the whole home is searched."""
    bad = {kind: key for kind, key in bad_keys(site).items() if key and kind != "the hash"}
    stranger = "llmops_feedbeef_a-secret-of-another-installation"
    role: Role
    with caplog.at_level("DEBUG"), site.client() as client:
        site.ready(client)
        for name in routes:
            for key in (*bad.values(), stranger):
                call(client, name, key)
        for role in ROLES:
            call(client, "POST /generate", site.keys[role])
            client.post("/signin", data={"api_key": site.keys[role]})
            client.get("/dashboard/data")
        client.post("/signin", data={"api_key": stranger})
        fresh = call(client, "POST /admin/keys", site.keys["admin"]).json()["key"]
        client.get("/generate?key=" + fresh, headers={"X-API-Key": fresh})
    site.events(AUDIT)
    keys = [*bad.values(), *site.keys.values(), stranger, fresh]
    secrets = [key.split("_", 2)[2].encode() for key in keys]
    files = [path for path in site.config.home.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    output = capfd.readouterr()
    said = (caplog.text + output.out + output.err).encode()
    client_lines = [line for line in said.splitlines() if b"httpx" not in line]  # the test's own client tells its URLs
    assert not any(secret in line for line in client_lines for secret in secrets)
