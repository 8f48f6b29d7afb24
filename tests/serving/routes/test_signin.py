"""One session for all pages: how it begins and ends, what it may do, and who may not use it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert, select

from llmops.errors import StateReadOnly, StateUnavailable
from llmops.monitoring.datasets import AUDIT, FEEDBACK
from llmops.state.database import database_of
from llmops.state.tables import ended_sessions
from serving.admission import signing

HTML = {"Accept": "text/html"}
OWN = {"Origin": "http://testserver"}
ASK = {"prompt": "one two three"}
CHAT = {"model": "support-bot", "messages": [{"role": "user", "content": "one two"}]}
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://testserver:8080"},  # another program on this host, which is the same site
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "http://evil.example/testserver"},
    {"Origin": "testserver"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", **OWN},
    {"Sec-Fetch-Site": "nonsense", **OWN},
]


def sign_in(client: TestClient, key: str, to: str = "/", **headers: str) -> Any:
    return client.post("/signin", data={"api_key": key, "to": to}, headers=headers, follow_redirects=False)


def reasons(site: Any) -> set[tuple[str, str]]:
    return {(e["event.reason"], e["url.path"]) for e in site.events(AUDIT) if e["event.action"] == "access"}


@pytest.mark.parametrize("path", ["/", "/dashboard", "/drift", "/admin/review", "/dashboard?span=7d&a=%26b"])
def test_every_page_asks_at_one_place_and_leads_back(site: Any, client: TestClient, path: str) -> None:
    asked = client.get(path, headers=HTML)
    assert asked.status_code == 401
    to = re.search(r'name="to" value="([^"]*)"', asked.text)[1].replace("&amp;", "&")  # type: ignore[index]
    assert to == path
    answer = sign_in(client, site.keys["admin"], to)
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    assert client.get(path, headers=HTML).status_code == 200


def test_one_session_is_good_on_all_pages_and_each_leads_to_the_others(site: Any, client: TestClient) -> None:
    sign_in(client, site.keys["admin"])
    pages = ["/", "/dashboard", "/drift", "/admin/review", "/docs"]
    for path in pages:
        page = client.get(path, headers=HTML)
        assert page.status_code == 200
        links = re.findall(r'<a href="([^"]*)"( aria-current="page")?>', page.text)
        assert [link for link, _ in links][: len(pages)] == pages
        assert [link for link, here in links if here] == [path]
        assert 'action="/signout"' in page.text and "admin · admin" in page.text


def test_what_a_role_may_not_see_is_not_in_its_navigation(site: Any, client: TestClient) -> None:
    for role, seen in (("user", {"/", "/docs"}), ("developer", {"/", "/dashboard", "/drift", "/docs"})):
        client.cookies.clear()
        sign_in(client, site.keys[role])
        nav = re.search(r"<nav.*?</nav>", client.get("/", headers=HTML).text, re.DOTALL)
        assert nav and set(re.findall(r'href="([^"]*)"', nav[0])) == seen


def test_too_weak_a_role_is_told_what_is_needed_and_may_go_on_with_another_key(site: Any, client: TestClient) -> None:
    sign_in(client, site.keys["user"])
    for path, needed in (("/dashboard?span=7d", "developer or admin"), ("/drift", "developer or admin"),
                         ("/admin/review", "role admin")):  # fmt: skip
        page = client.get(path, headers=HTML)
        assert page.status_code == 403 and needed in page.text and "role user" in page.text
        assert f'name="to" value="{path}"' in page.text and 'href="/"' in page.text
    assert client.get("/dashboard/data").json()["code"] == "forbidden"
    assert sign_in(client, site.keys["developer"], "/dashboard").headers["location"] == "/dashboard"
    assert client.get("/dashboard", headers=HTML).status_code == 200


def test_the_cookie_is_for_this_app_alone(site: Any, client: TestClient) -> None:
    cookie = sign_in(client, site.keys["user"]).headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict", f"Max-Age={signing.SESSION_S}"} <= set(cookie.split("; "))
    assert "Secure" not in cookie and "Domain" not in cookie
    behind_tls = TestClient(client.app, base_url="https://bot.example")
    assert "; Secure" in sign_in(behind_tls, site.keys["user"]).headers["set-cookie"]
    assert "; Secure" in behind_tls.post("/signout", follow_redirects=False).headers["set-cookie"]


def test_what_is_asked_with_the_session_is_asked_with_its_key(new_site: Any, tmp_path: Any) -> None:
    site = new_site(tmp_path, requests_per_minute=3).release()
    prefix = site.keys["user"].split("_")[1]
    with site.client() as client:
        site.ready(client)
        sign_in(client, site.keys["user"])
        first = client.post("/generate", json=ASK, headers=OWN)
        assert first.status_code == 200 and first.headers["x-ratelimit-remaining-requests"] == "2"
        assert (
            client.post("/generate", json=ASK, headers=site.headers()).headers["x-ratelimit-remaining-requests"] == "1"
        )
        said = {"id": first.json()["id"], "rating": "up"}
        assert client.post("/feedback", json=said, headers=site.headers()).status_code == 201  # the key's own answer
        assert client.post("/v1/chat/completions", json=CHAT, headers=OWN).status_code == 429
        assert client.get("/v1/models").status_code == 200
    assert [e["llmops.key.prefix"] for e in site.events()] == [prefix, prefix]
    assert [e["llmops.key.prefix"] for e in site.events(FEEDBACK)] == [prefix]
    assert ("limited", "/v1/chat/completions") in reasons(site)


def test_a_session_may_ask_rate_and_review_and_no_more(site: Any, client: TestClient) -> None:
    sign_in(client, site.keys["admin"])
    for path, body in (
        ("/admin/promote", {"version": "v2"}), ("/admin/rollback", None), ("/admin/canary", {"stop": True}),
        ("/admin/ab_test", {"stop": True}), ("/admin/keys", {"role": "admin", "owner": "x"}),
        ("/admin/keys/00000000/rotate", None),
    ):  # fmt: skip
        answer = client.post(path, json=body, headers={**OWN, "Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 401 and "the API key itself" in answer.json()["detail"], path
    assert client.delete("/admin/keys/00000000", headers=OWN).status_code == 401
    reviewed = client.post("/admin/review", json={"key": "00000000"}, headers=OWN)
    assert reviewed.status_code not in (401, 403), reviewed.text


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_other_page_can_ask_in_the_name_of_who_is_signed_in(site: Any, client: TestClient, headers: Any) -> None:
    sign_in(client, site.keys["admin"])
    for path, sent in (
        ("/generate", {"json": ASK}), ("/generate?prompt=a", {}), ("/generate?prompt=a", {"data": {"x": "y"}}),
        ("/feedback", {"json": {"id": "0" * 48, "rating": "up"}}), ("/admin/review", {"json": {"key": "00000000"}}),
    ):  # fmt: skip
        answer = client.post(path, headers=headers, **sent)
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_page"), path
    assert client.post("/v1/chat/completions", json=CHAT, headers=headers).json()["error"]["code"] == "foreign_page"
    signed_out = client.post("/signout", headers=headers, follow_redirects=False)
    assert signed_out.status_code == 403 and "set-cookie" not in signed_out.headers
    assert client.get("/dashboard/data").status_code == 200  # still signed in
    forced = sign_in(client, site.keys["user"], **headers)  # into somebody else's key, to see what is asked
    assert forced.status_code == 403 and "set-cookie" not in forced.headers
    assert not site.events() and not site.events(FEEDBACK)
    site.until(lambda: {("foreign_page", path) for path in ("/generate", "/signout", "/signin")} <= reasons(site))


@pytest.mark.parametrize("headers", [OWN, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}], ids=str)
def test_our_own_page_can(site: Any, client: TestClient, headers: Any) -> None:
    sign_in(client, site.keys["user"], **headers)
    assert client.post("/generate", json=ASK, headers=headers).status_code == 200
    assert client.post("/signout", headers=headers, follow_redirects=False).headers["location"] == "/signin"


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": ""}, {"Referer": "http://testserver/"}], ids=str)
def test_where_nothing_says_which_page_it_was_the_key_is_asked_for(site: Any, client: TestClient, headers: Any) -> None:
    sign_in(client, site.keys["user"])
    answer = client.post("/generate", json=ASK, headers=headers)
    assert answer.status_code == 401 and "X-API-Key" in answer.json()["detail"]


def test_a_key_in_the_header_needs_no_page_and_counts_before_the_session(site: Any, client: TestClient) -> None:
    sign_in(client, site.keys["admin"])
    foreign = {**site.headers("user"), "Origin": "https://app.example"}
    assert client.post("/generate", json=ASK, headers=foreign).status_code == 200
    assert client.get("/dashboard/data", headers=site.headers("user")).status_code == 403
    assert client.post("/generate", json=ASK, headers={**OWN, "X-API-Key": "llmops_12345678_wrong"}).status_code == 401


def test_no_page_may_be_read_or_framed_from_elsewhere(site: Any, client: TestClient) -> None:
    sign_in(client, site.keys["developer"])
    page = client.get("/dashboard", headers={**HTML, "Origin": "https://evil.example"})
    assert not [name for name in page.headers if name.startswith("access-control")]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "same-origin"  # with `no-referrer`, forms would say `Origin: null`


def status(client: TestClient, cookie: str) -> int:
    client.cookies.clear()
    return client.get("/v1/models", headers={"Cookie": f"llmops_session={cookie}"}).status_code


def test_signing_out_ends_the_session_for_whoever_copied_it_and_no_other(site: Any, client: TestClient) -> None:
    cookies = []
    for _ in range(2):
        sign_in(client, site.keys["user"])
        cookies.append(client.cookies["llmops_session"])
        client.cookies.clear()
    assert [status(client, cookie) for cookie in cookies] == [200, 200]
    client.post("/signout", headers={"Cookie": f"llmops_session={cookies[0]}"}, follow_redirects=False)
    assert [status(client, cookie) for cookie in cookies] == [401, 200]
    with site.client() as other:  # another process of the app, or this one after a restart
        site.ready(other)
        assert [status(other, cookie) for cookie in cookies] == [401, 200]
    site.until(lambda: ("allowed", "/signout") in reasons(site))


def test_who_signs_in_again_leaves_no_session_behind(site: Any, client: TestClient) -> None:
    cookies = []
    for role in ("user", "admin"):
        sign_in(client, site.keys[role])
        cookies.append(client.cookies["llmops_session"])
    assert [status(client, cookie) for cookie in cookies] == [401, 200]
    sign_in(client, "llmops_no_key", Cookie=f"llmops_session={cookies[1]}")
    assert status(client, cookies[1]) == 200  # who got nothing keeps what there was


def test_nobody_ends_what_is_not_theirs_and_what_is_over_is_forgotten(site: Any, client: TestClient) -> None:
    database = database_of(site.config)

    def ended() -> list[str]:
        with database.read() as connection:
            return list(connection.scalars(select(ended_sessions.c.session)))

    sign_in(client, site.keys["user"])
    cookie = client.cookies["llmops_session"]
    client.cookies.clear()
    for forged in ("", "a-b.c.d", cookie[:-1], f"{cookie}x", cookie.replace("-", "-0", 1)):
        client.post("/signout", headers={"Cookie": f"llmops_session={forged}"}, follow_redirects=False)
    assert ended() == [] and status(client, cookie) == 200
    with database.change() as connection:
        connection.execute(insert(ended_sessions).values(session="old", until="2026-01-01T00:00:00+00:00"))
    for _ in range(2):
        client.post("/signout", headers={"Cookie": f"llmops_session={cookie}"}, follow_redirects=False)
    assert ended() == [signing.session_parts(cookie)[1]]


def test_where_nothing_can_be_written_the_browser_forgets_it_all_the_same(
    site: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise StateReadOnly("Nothing can be decided here.")

    sign_in(client, site.keys["user"])
    monkeypatch.setattr(client.app.state.parts.keys, "end_session", read_only)  # type: ignore[attr-defined]
    answer = client.post("/signout", headers=OWN, follow_redirects=False)
    assert answer.status_code == 200 and "Max-Age=0" in answer.headers["set-cookie"]
    assert "could not be ended" in answer.text  # and is not said to have ended
    assert client.get("/v1/models").status_code == 401


def test_while_the_database_is_away_no_session_is_good_and_signing_out_says_what_it_is_worth(
    site: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StateUnavailable("It is away.")

    sign_in(client, site.keys["user"])
    cookie = client.cookies["llmops_session"]
    client.post("/signout", headers=OWN, follow_redirects=False)
    with monkeypatch.context() as patch:
        patch.setattr("llmops.access.keys.find", away)
        assert status(client, cookie) == 503  # it was signed out, which nobody can tell now
        assert client.get("/v1/models", headers=site.headers("user")).status_code == 200  # a key goes on
        said = client.post("/signout", headers={**OWN, "Cookie": f"llmops_session={cookie}"}, follow_redirects=False)
        assert said.status_code == 200 and "could not be ended" in said.text


@pytest.mark.parametrize("cookie", ['"\\000"', '"\\000-\\000.x.y"', "x" * 5000, "12345678.old.form", "1-2.3.4"])
def test_what_cannot_be_a_session_or_a_key_is_not_looked_for(
    site: Any, client: TestClient, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL takes no NUL: each would be a failure of ours that anybody can cause."""

    def looked_for(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("llmops.access.keys.find", looked_for)
    headers = {"Cookie": f"llmops_session={cookie}", **OWN}
    for path in ("/generate", "/signout"):
        assert client.post(path, json=ASK, headers=headers, follow_redirects=False).status_code in (401, 303)
    assert client.get("/docs", headers=headers).status_code == 200
    assert sign_in(client, "llmops_\0_x").status_code == 401


@pytest.mark.parametrize("host", ["testserver:80", "testserver"])
def test_the_port_that_a_scheme_has_by_itself_may_be_said(site: Any, client: TestClient, host: str) -> None:
    assert sign_in(client, site.keys["user"], Host=host, Origin="http://testserver").status_code == 303


def test_a_revoked_or_expired_key_and_an_old_session_end_at_once(
    site: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, entry = site.store.create("developer", "short")
    sign_in(client, key)
    asked = [client.post("/generate", json=ASK, headers=OWN).status_code]
    site.store.revoke(entry.prefix)
    asked.append(client.post("/generate", json=ASK, headers=OWN).status_code)
    page = client.get("/dashboard", headers=HTML)
    assert (asked, page.status_code) == ([200, 401], 401) and "was revoked" in page.text
    late, _ = site.store.create("developer", "late", days=1)
    sign_in(client, late)
    assert client.post("/generate", json=ASK, headers=OWN).status_code == 200
    monkeypatch.setattr(signing, "SESSION_S", 0)
    page = client.get("/", headers=HTML)
    assert page.status_code == 401 and "sign in again" in page.text
    assert client.post("/generate", json=ASK, headers=OWN).json()["code"] == "key_unknown"


def test_what_is_shown_of_a_key_or_a_path_is_never_markup(site: Any, client: TestClient) -> None:
    key, _ = site.store.create("user", "<script>alert(1)</script>")
    sign_in(client, key)
    for path in ("/", "/dashboard", "/docs", '/signin?to="><script>alert(1)</script>'):
        assert "<script>alert" not in client.get(path, headers=HTML).text
