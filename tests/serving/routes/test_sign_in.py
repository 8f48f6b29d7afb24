"""Signing in at a real provider of OpenID Connect: the whole way, and everything that must not lead in."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpcore2
import httpx
import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from pydantic import ValidationError
from werkzeug.serving import make_server

from llmops.access.people import choose_role, make_prefix
from llmops.access.roles import KeyRefused
from llmops.config import Config
from llmops.events.datasets import AUDIT, FEEDBACK
from llmops.frame.errors import ConfigError
from serving.admission.dependencies import PAGE_HEADER
from serving.admission.signing import SESSION_S
from serving.app import create_app
from tests.serving.provider import ENVIRON, SECRET, Claims, Provider, read_prefix, run_server

OF_PAGE = {PAGE_HEADER: "1"}


@pytest.fixture(autouse=True)
def issue_good_tokens(provider: Provider) -> None:
    provider.issue = None


@pytest.fixture(scope="module")
def running(new_site: Any, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    site = new_site(tmp_path_factory.mktemp("site"), oidc=provider.settings, environ=ENVIRON).release()
    with site.client() as client:
        site.ready(client)
        yield site, client


@pytest.fixture
def site(shared_site: Any) -> Any:
    return shared_site


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    return shared_client


def begin(client: TestClient) -> str:
    """Begin to sign in; give the address that the browser is sent to."""
    answer = client.get("/signin/oidc", follow_redirects=False)
    assert answer.status_code == 302
    return str(answer.headers["location"])


def finish(client: TestClient, url: str) -> httpx.Response:
    return client.get(url, follow_redirects=False)


# --- the way in


def test_a_person_signs_in_looks_asks_rates_and_signs_out(site: Any, client: TestClient, provider: Provider) -> None:
    page = client.get("/dashboard", headers={"Accept": "text/html"})
    assert page.status_code == 401 and 'href="/signin/oidc?to=/dashboard"' in page.text and "localhost" in page.text
    url = httpx.URL(begin(client))
    asked = dict(url.params)
    assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256" and asked["code_challenge"]
    assert asked["state"] and asked["nonce"] and asked["scope"] == "openid email" and SECRET not in str(url)
    assert asked["redirect_uri"] == "http://testserver/signin/oidc/callback"
    answer = provider.sign_in(client, "admin", to="/admin/review")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/review")
    session, flow = (value.lower() for value in answer.headers.get_list("set-cookie"))
    assert session.startswith("llmops_session=oidc-") and "httponly" in session and "samesite=lax" in session
    assert flow.startswith('llmops_sign_in="";') and "max-age=0" in flow
    for path in ("/", "/dashboard", "/admin/review"):
        page = client.get(path)
        assert page.status_code == 200 and "admin@example.com · admin" in page.text
    assert 'id="signin"' not in client.get("/").text
    asked_model = client.post("/generate", json={"prompt": "one two"}, headers=OF_PAGE)
    rating = {"id": asked_model.json()["id"], "rating": "up"}
    assert client.post("/feedback", json=rating, headers=OF_PAGE).status_code == 201
    prefix = make_prefix(provider.issuer, "admin")
    assert prefix == read_prefix(client)
    (event,), (feedback,) = site.events(), site.events(FEEDBACK)
    for one in (event, feedback):
        assert one["llmops.key.prefix"] == prefix and one["user.roles"] == ["admin"] and "admin@" not in json.dumps(one)
    client.post("/signout")
    assert client.get("/dashboard/data").status_code == 401
    for path in site.config.home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_the_session_ends_with_the_token_and_after_twelve_hours_at_most(client: TestClient, provider: Provider) -> None:
    for lasts, most in ((100, 100), (10 * SESSION_S, SESSION_S)):
        begun = now()
        provider.issue = lambda claims, end=begun + lasts: provider.sign({**claims, "exp": end})
        session = provider.sign_in(client, "user").headers.get_list("set-cookie")[0]
        passed = now() + 1 - begun  # seconds, rounded up
        end, age = int(session.split(".")[1]), int(session.split("Max-Age=")[1].split(";")[0])
        assert begun + most <= end <= begun + most + passed and most - passed <= age <= most


def test_the_groups_of_each_sign_in_give_the_role(site: Any, client: TestClient, provider: Provider) -> None:
    provider.add("mover", "shop-admins", "shop-users")
    assert provider.sign_in(client, "mover").status_code == 303
    assert client.get("/admin/keys").status_code == 200
    other = TestClient(client.app)
    provider.add("mover", "shop-users")
    assert provider.sign_in(other, "mover").status_code == 303
    assert read_prefix(other) == read_prefix(client)
    for browser in (client, other):
        site.until(lambda browser=browser: browser.get("/admin/keys").status_code == 403)
    changes = [e for e in site.events(AUDIT) if e.get("llmops.target.key.prefix") == read_prefix(client)]
    assert [(e["event.action"], e["user.target.roles"]) for e in changes] == [
        ("create_key", ["admin"]), ("update_key", ["user"]),
    ]  # fmt: skip


def test_a_session_changes_nothing_for_a_page_of_another_site(
    site: Any, client: TestClient, provider: Provider
) -> None:
    provider.sign_in(client, "admin")
    for path, body in (("/generate", {"prompt": "x"}), ("/admin/rollback", {}), ("/admin/keys", {"role": "admin"})):
        assert client.post(path, json=body).status_code == 401
    assert client.post("/generate", json={"prompt": "x"}, headers=OF_PAGE).status_code == 200
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": PAGE_HEADER,
        "Origin": "https://x",
    }
    allowed = client.options("/generate", headers=asked)
    assert allowed.status_code == 405 and not any(name.startswith("access-control") for name in allowed.headers)


def test_a_page_of_another_site_signs_nobody_in_or_out(site: Any, client: TestClient) -> None:
    key = site.keys["user"]
    for headers, status in (
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({}, 303),
    ):
        answer = client.post("/signin", data={"api_key": key}, headers=headers, follow_redirects=False)
        assert answer.status_code == status
        assert client.post("/signout", headers=headers, follow_redirects=False).status_code == status


def test_a_person_is_revoked_for_good_and_never_has_a_secret(site: Any, client: TestClient, provider: Provider) -> None:
    provider.add("leaver", "shop-admins")
    provider.sign_in(client, "leaver")
    prefix = read_prefix(client)
    rotated = client.post(f"/admin/keys/{prefix}/rotate", headers=site.headers("admin"))
    assert rotated.status_code == 422
    with pytest.raises(KeyRefused):
        site.store.rotate(prefix)
    assert client.delete(f"/admin/keys/{prefix}", headers=site.headers("admin")).status_code == 200
    assert client.get("/dashboard/data").status_code == 401
    before = site.refusals(client)
    answer = provider.sign_in(client, "leaver")
    assert answer.status_code == 401 and "revoked" in answer.text
    assert site.refusals(client) - before == {"revoked": 1}


def test_limits_hold_for_a_person_in_all_browsers_together(new_site: Any, provider: Provider, tmp_path: Path) -> None:
    site = new_site(tmp_path, environ=ENVIRON, oidc=provider.settings, requests_per_minute=2).release()
    with site.client() as client:
        site.ready(client)
        codes = []
        for browser in (client, TestClient(client.app), TestClient(client.app)):
            assert provider.sign_in(browser, "user").status_code == 303
            codes.append(browser.post("/generate", json={"prompt": "x"}, headers=OF_PAGE).status_code)
        assert codes == [200, 200, 429]
        provider.sign_in(client, "developer")
        assert client.post("/generate", json={"prompt": "x"}, headers=OF_PAGE).status_code == 200


def test_the_feedback_of_one_person_counts_once(site: Any, client: TestClient, provider: Provider) -> None:
    answers = []
    for browser in (client, TestClient(client.app)):
        provider.sign_in(browser, "user")
        asked = browser.post("/generate", json={"prompt": "Where is it?"}, headers=OF_PAGE).json()
        said = {"id": asked["id"], "question": "Where is it?", "answer": asked["response"], "correction": "In Lisbon."}
        answers.append(browser.post("/feedback", json=said, headers=OF_PAGE).status_code)
    assert answers == [201, 201]
    site.events(FEEDBACK)
    (entry,) = client.get("/admin/review/data", headers=site.headers("admin")).json()["open"]
    prefix = make_prefix(provider.issuer, "user")
    assert entry["agreeing"] == 1 and entry["people"] == [{"role": "user", "prefix": prefix}]
    refused = client.post("/admin/review", json={"key": prefix}, headers=site.headers("admin"))
    assert refused.json() == {"refused": 2}  # both, which count as one


# --- what leads nowhere


def encode(part: Claims) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def now() -> int:
    return int(time.time())


BAD: dict[str, Any] = {
    "forged": lambda p, c: p.sign(c, RSAKey.generate_key()),
    "changed": lambda p, c: ".".join(
        encode({**c, "groups": ["shop-admins"]}) if n == 1 else part for n, part in enumerate(p.sign(c).split("."))
    ),
    "unsigned": lambda p, c: f"{encode({'alg': 'none'})}.{encode({k: v for k, v in c.items() if k != 'at_hash'})}.",
    "signed with the client secret": lambda p, c: jwt.encode({"alg": "HS256"}, c, OctKey.import_key(SECRET)),
    "expired": lambda p, c: p.sign({**c, "exp": now() - 3600, "iat": now() - 7200}),
    "without an end": lambda p, c: p.sign({k: v for k, v in c.items() if k != "exp"}),
    "for another app": lambda p, c: p.sign({**c, "aud": "another"}),
    "for another app, asked for by this one": lambda p, c: p.sign({**c, "aud": ["another"], "azp": "llmops"}),
    "of another issuer": lambda p, c: p.sign({**c, "iss": "https://other.example"}),
    "with another nonce": lambda p, c: p.sign({**c, "nonce": "another"}),
    "without a nonce": lambda p, c: p.sign({k: v for k, v in c.items() if k != "nonce"}),
    "without a subject": lambda p, c: p.sign({k: v for k, v in c.items() if k != "sub"}),
    "with an empty subject": lambda p, c: p.sign({**c, "sub": ""}),
    "nonsense": lambda p, c: "a.b.c",
    "none": lambda p, c: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_token_is_refused(site: Any, client: TestClient, provider: Provider, kind: str) -> None:
    before = site.refusals(client)
    provider.issue = lambda claims: BAD[kind](provider, claims)
    answer = provider.sign_in(client, "admin")
    assert answer.status_code == 401 and "llmops_session" not in client.cookies, answer.text
    assert "Begin again" in answer.text
    assert site.refusals(client) - before == {"sign_in_refused": 1}


def test_a_token_of_an_earlier_sign_in_is_refused(site: Any, client: TestClient, provider: Provider) -> None:
    kept: list[str] = []
    provider.issue = lambda claims: kept.append(provider.sign(claims)) or kept[0]  # type: ignore[func-returns-value]
    assert provider.sign_in(client, "admin").status_code == 303
    client.cookies.clear()
    before = site.refusals(client)
    assert provider.sign_in(client, "user").status_code == 401
    assert site.refusals(client) - before == {"sign_in_refused": 1}


def test_an_answer_that_this_browser_did_not_ask_for_is_refused(
    site: Any, client: TestClient, provider: Provider
) -> None:
    before = site.refusals(client)
    back = provider.approve(begin(client), "admin")
    url = httpx.URL(back)
    assert finish(TestClient(client.app), back).status_code == 401  # another browser, which was sent this link
    back = provider.approve(begin(client), "admin")
    assert finish(client, str(url.copy_set_param("state", "another"))).status_code == 401
    back = provider.approve(begin(client), "admin")
    cookie = client.cookies["llmops_sign_in"]
    assert finish(client, back).status_code == 303
    client.cookies.clear()
    assert finish(client, back).status_code == 401  # again
    again = client.get(back, headers={"Cookie": f"llmops_sign_in={cookie}"}, follow_redirects=False)
    assert again.status_code == 401  # with the old cookie, too: a code is good once
    begin(client)
    for query in ("", "?code=x", "?error=access_denied", "?state=&code="):
        assert finish(client, f"/signin/oidc/callback{query}").status_code == 401
    assert "llmops_session" not in client.cookies
    assert site.refusals(client) - before == {"sign_in_refused": 8}


def test_a_person_without_a_role_is_told_which_groups_have_one(
    site: Any, client: TestClient, provider: Provider
) -> None:
    before, known = site.refusals(client), len(site.store.list())
    answer = provider.sign_in(client, "stranger")
    assert answer.status_code == 403 and "llmops_session" not in client.cookies
    for group in provider.settings["roles"]:
        assert group in answer.text
    for groups in (7, {"shop-admins": True}, "shop-admin", [["shop-admins"]]):
        provider.issue = lambda claims, groups=groups: provider.sign({**claims, "groups": groups})
        assert provider.sign_in(client, "stranger").status_code == 403
    assert site.refusals(client) - before == {"no_role": 5} and len(site.store.list()) == known


def test_signing_in_leads_nowhere_else(client: TestClient, provider: Provider) -> None:
    for to in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:x"):
        assert provider.sign_in(client, "user", to).headers["location"] == "/dashboard"


def test_without_its_provider_the_app_still_takes_keys(new_site: Any, tmp_path: Path) -> None:
    settings = {"issuer": "http://localhost:9", "client_id": "llmops", "roles": {"x": "user"}}
    site = new_site(tmp_path, environ=ENVIRON, oidc=settings).release()
    with site.client() as client:
        answer = client.get("/signin/oidc", follow_redirects=False)
        assert answer.status_code == 503 and 'name="api_key"' in answer.text
        assert client.post("/signin", data={"api_key": site.keys["user"]}, follow_redirects=False).status_code == 303
    with new_site(tmp_path / "other").release().client() as client:  # where none is set up
        for path in ("/signin/oidc", "/signin/oidc/callback"):
            assert client.get(path).status_code == 404
        assert "/signin/oidc" not in client.get("/").text


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"authorization_endpoint": 7}'])
def test_a_provider_that_talks_nonsense_is_no_defect_of_the_app(new_site: Any, tmp_path: Path, body: str) -> None:
    server = make_server("localhost", 0, lambda environ, start: (start("200 OK", []), [body.encode()])[1])
    settings = {"issuer": f"http://localhost:{server.server_port}", "client_id": "llmops", "roles": {"x": "user"}}
    with run_server(server), new_site(tmp_path, environ=ENVIRON, oidc=settings).client() as client:
        answer = client.get("/signin/oidc", follow_redirects=False)
        assert answer.status_code == 503 and 'name="api_key"' in answer.text


def test_a_sign_in_reads_no_certificates(
    client: TestClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpcore2, "default_ssl_context", None)  # it takes 10 ms, in which nobody is answered
    assert provider.sign_in(client, "user").status_code == 303


def test_the_configuration_names_an_https_provider_and_the_environment_its_secret(tmp_path: Path) -> None:
    good = {"issuer": "https://login.example.com/realms/shop", "client_id": "llmops", "roles": {"a": "admin"}}
    config = Config(home=tmp_path, serving={"oidc": good})
    with pytest.raises(ConfigError, match="LLMOPS_OIDC_CLIENT_SECRET"):
        create_app(config, environ={})
    for wrong in ({"issuer": "http://login.example.com"}, {"roles": {}}, {"roles": {"a": "root"}}, {"scope": "email"}):
        with pytest.raises(ValidationError):
            Config(home=tmp_path, serving={"oidc": good | wrong})


def test_a_name_is_an_address_only_if_it_is_verified(site: Any, client: TestClient, provider: Provider) -> None:
    names = []
    for verified in (True, "true", False, "false"):
        provider.issue = lambda claims, given=verified: provider.sign({**claims, "email_verified": given})
        provider.sign_in(client, "user")
        (owner,) = (key.owner for key in site.store.list() if key.prefix == read_prefix(client))
        names.append(owner)
    assert names == ["user@example.com", "user@example.com", "user", "user"]


def test_the_strongest_role_of_the_groups_counts() -> None:
    roles = {"a": "user", "b": "admin", "c": "developer"}
    assert choose_role(["c", "a", "x"], roles) == "developer" and choose_role(["b", "c"], roles) == "admin"
    assert choose_role(["x", "A"], roles) is None and choose_role([], roles) is None
