"""The pages in a real browser: one sign-in for all, one navigation, small tables that a telephone shows whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from llmops.monitoring.datasets import AUDIT, PIPELINE
from llmops.monitoring.events import emit, timestamp
from llmops.monitoring.shipping import drain
from serving.engines.echo import EchoEngine

PAGES = {"Playground": "/", "Dashboard": "/dashboard", "Drift": "/drift", "Review": "/admin/review", "API": "/docs"}
#: What of a page stands out of the window, unless it is in something that can be scrolled
CUT = """[...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest(".scroll, pre, #swagger-ui, .unseen, svg");
}).map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def url(shared_site: Any) -> Iterator[str]:
    site = shared_site
    names = {"tokens_per_second_batch": 7952.6, "merged_validation_loss": 10.65, "parameters": 3_252_544}
    why = "q8_0 adds +0.0000 to +0.0004 nats per answer token, which is within the bound that was set " * 2
    for more in (1, 0):
        fields = {"event.action": "train", "event.outcome": "success", "event.duration": 10**9, "llmops.interval": "x"}
        metrics = {**{name: value + more for name, value in names.items()}, "why": why, "model_" + "x" * 60: 1}
        emit(site.config.events, PIPELINE, {**fields, "@timestamp": timestamp(datetime.now(UTC)),
                                            "llmops.metrics": metrics})  # fmt: skip
    drain(site.config.events, site.config.monitoring)
    with site.live(lambda v: site.engines.setdefault(v.name, EchoEngine(token_s=0.01))) as url:
        yield url


@pytest.fixture(scope="module")
def shared_site(new_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return new_site(tmp_path_factory.mktemp("pages")).release()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()


def enter(page: Any, key: str) -> None:
    page.wait_for_selector("#api_key:focus")
    page.keyboard.type(key)
    page.keyboard.press("Enter")


def test_who_signs_in_once_goes_everywhere_and_out_again(shared_site: Any, url: str, page: Any) -> None:
    page.goto(f"{url}/drift")
    enter(page, shared_site.keys["admin"])
    page.wait_for_url(f"{url}/drift")
    for name, path in PAGES.items():
        page.click(f"nav >> text={name}")
        page.wait_for_url(f"{url}{path}")
        assert page.locator("[aria-current=page]").inner_text() == name
        assert page.locator("#api_key").count() == 0 and page.locator(".who span").inner_text() == "admin · admin"
    page.click("text=Sign out")
    page.wait_for_selector("#api_key")
    page.go_back()
    page.reload()
    page.wait_for_selector("text=Sign in")
    page.goto(f"{url}/dashboard")
    page.wait_for_selector("#api_key")
    assert page.problems == []


@pytest.mark.parametrize("path", ["/dashboard", "/admin/review"])
def test_an_open_page_ends_with_its_key(shared_site: Any, url: str, page: Any, path: str) -> None:
    key, entry = shared_site.store.create("admin", "short")
    page.goto(f"{url}{path}")
    enter(page, key)
    page.wait_for_selector("#tiles .tile, #entries .empty")
    shared_site.store.revoke(entry.prefix)
    if path == "/admin/review":
        page.reload()  # it asks for nothing by itself
    page.wait_for_selector("text=was revoked")
    enter(page, shared_site.keys["admin"])
    page.wait_for_selector("#tiles .tile, #entries .empty")
    assert page.url == f"{url}{path}"


def test_who_may_only_ask_is_told_so_on_the_dashboard_and_gets_on(shared_site: Any, url: str, page: Any) -> None:
    page.goto(f"{url}/dashboard")
    enter(page, shared_site.keys["user"])
    page.wait_for_selector("h1")
    assert "needs the role developer or admin" in page.locator(".notice").inner_text()
    page.click("text=Back to the playground")
    page.wait_for_selector("#prompt:focus")
    page.goto(f"{url}/dashboard")
    enter(page, shared_site.keys["developer"])
    page.wait_for_selector("#tiles .tile")
    assert page.problems == []


def test_a_link_from_another_site_finds_the_session(shared_site: Any, url: str, page: Any) -> None:
    """In an alert's mail, say: the cookie does not come along with the first request."""
    page.route("http://mail.example/", lambda route: route.fulfill(
        content_type="text/html", body=f'<a href="{url}/dashboard">The latency is too high</a>'))  # fmt: skip
    page.goto("http://mail.example/")
    page.click("a")
    enter(page, shared_site.keys["developer"])  # without a session it asks for a key
    page.wait_for_selector("#tiles .tile")
    page.goto("http://mail.example/")
    with page.expect_response(f"{url}/dashboard") as first:
        page.click("a")
    assert first.value.status == 401
    page.wait_for_selector("#tiles .tile")


def test_what_a_user_says_in_the_playground_an_admin_decides_in_the_review(
    shared_site: Any, url: str, page: Any
) -> None:
    page.goto(url)
    enter(page, shared_site.keys["user"])
    page.wait_for_selector("#prompt:focus")
    page.keyboard.type("Do you ship to Norway?")
    page.keyboard.press("Enter")
    page.click("[aria-label='Bad answer']")
    page.wait_for_selector(".correction textarea:focus")
    right = f"No, within the European Union only, as {page.evaluate('Date.now()')} says."
    page.fill(".correction textarea", right)
    page.click("text=Send correction")
    page.wait_for_selector(".correction", state="hidden")
    drain(shared_site.config.events, shared_site.config.monitoring)
    page.click("text=Sign out")
    page.goto(f"{url}/admin/review")
    enter(page, shared_site.keys["admin"])
    entry = page.locator("article", has_text=right)
    entry.get_by_role("button", name="Accept", exact=True).click()
    entry.wait_for(state="detached")
    page.click("text=Decided")
    assert f"accepted by key {shared_site.keys['admin'].split('_')[1]}" in entry.inner_text()
    assert page.problems == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_any_page_is_cut_off(shared_site: Any, url: str, page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(url)
    assert page.evaluate(CUT) == []
    enter(page, shared_site.keys["admin"])
    page.wait_for_selector("#prompt:focus")
    for path in PAGES.values():
        page.goto(f"{url}{path}")
        page.wait_for_load_state("networkidle")
        assert page.evaluate(CUT) == [], path
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, path
    assert page.problems == []


def test_what_a_stage_measured_is_a_small_table(shared_site: Any, url: str, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{url}/dashboard")
    enter(page, shared_site.keys["developer"])
    table = page.locator("#measured table").first
    table.wait_for()
    rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tr").all()]
    assert rows[0] == ["Figure", "Value", "Unit", "Change"]
    assert ["batch", "7,953", "tokens/s", "−1"] in rows and ["parameters", "3,252,544", "", "−1"] in rows
    box, whole = table.bounding_box(), page.locator("#measured").bounding_box()
    assert box["x"] >= whole["x"] and box["x"] + box["width"] <= whole["x"] + whole["width"]


def test_another_program_on_this_host_can_do_nothing_in_the_name_of_who_is_signed_in(
    shared_site: Any, url: str, page: Any
) -> None:
    """It is the same site to the browser, which sends the cookie along."""
    page.goto(url)
    enter(page, shared_site.keys["admin"])
    page.wait_for_selector("#prompt:focus")
    other = page.context.new_page()
    form = f'<form method="post" action="{url}/{{}}"><input name="x"><button>Go</button></form>'
    other.route("http://127.0.0.1:1/*", lambda route: route.fulfill(
        content_type="text/html", body=form.format("generate?prompt=stolen") + form.format("signout")))  # fmt: skip
    for number in (0, 1):
        other.goto("http://127.0.0.1:1/")
        with other.expect_response(f"{url}/**") as sent:
            other.locator("button").nth(number).click()
        assert "llmops_session" in sent.value.request.all_headers().get("cookie", "")
        assert sent.value.status == 403 and sent.value.json()["code"] == "foreign_page"
    page.reload()
    page.wait_for_selector("#prompt:focus")
    shared_site.until(
        lambda: (
            {e["url.path"] for e in shared_site.events(AUDIT) if e.get("event.reason") == "foreign_page"}
            == {"/generate", "/signout"}
        )
    )
