"""The playground in a real browser, as somebody without a mouse uses it."""

import json

import pytest

from llmops.events.datasets import FEEDBACK
from tests.serving.provider import ENVIRON


@pytest.fixture(scope="module")
def served(new_site, stepwise, provider, tmp_path_factory):
    """A site and the URL of its app, whose engine keeps the ends of lines."""
    site = new_site(tmp_path_factory.mktemp("site"), environ=ENVIRON, oidc=provider.settings).release()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.serving.echo._split_words", lambda prompt: prompt.messages[-1].content.split(" "))
        with site.live(lambda v: site.engines.setdefault(v.name, stepwise(fail_on="bad"))) as url:
            yield site, url


@pytest.fixture
def site(served):
    served[0].forget_events()
    return served[0]


@pytest.fixture
def page(browser, served):
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(50_000)
    page.goto(served[1])
    page.problems = problems
    yield page
    context.close()


@pytest.fixture
def chat(site, page):
    page.keyboard.type(site.keys["user"])  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt:focus")
    return page


def ask(page, text):
    *lines, last = text.split("\n")
    for line in lines:
        page.keyboard.type(line)
        page.keyboard.press("Shift+Enter")
    page.keyboard.type(last)
    page.keyboard.press("Enter")


def read_answers(page):
    return [text.strip() for text in page.locator(".bubble.model .text").all_inner_texts()]


def wait_for_answers(page, count=1):
    page.locator(".feedback").nth(count - 1).wait_for()


def read_error(page):
    page.wait_for_selector(".bubble .bad")
    return page.locator(".bubble .bad").inner_text()


def test_a_question_is_answered_by_keyboard_alone_and_everything_has_a_name_for_a_screen_reader(chat):
    ask(chat, "one two\nthree")
    wait_for_answers(chat)
    assert read_answers(chat) == ["one two\nthree"] == chat.locator(".bubble.user .text").all_inner_texts()
    facts = chat.locator(".facts .badge").all_inner_texts()
    assert facts[0] == "v1" and "2 → 2 tokens" in facts
    assert chat.locator("#ready").inner_text() == "v1 is ready"
    assert chat.evaluate("document.activeElement.id") == "prompt"
    unnamed = chat.evaluate(
        """[...document.querySelectorAll("button, input, textarea")].filter((e) =>
             e.type !== "hidden" && !e.labels?.length && !e.getAttribute("aria-label") && !e.textContent.trim()
           ).map((e) => e.outerHTML)"""
    )
    assert unnamed == [] and chat.locator("#log").get_attribute("aria-live") == "polite" and chat.problems == []


def test_the_conversation_is_sent_along_until_a_new_one_begins(chat):
    sent = []
    chat.on("request", lambda r: sent.append(r.post_data_json) if "completions" in r.url else None)
    for count, text in enumerate(("first", "second"), 1):
        ask(chat, text)
        wait_for_answers(chat, count)
    chat.click("#clear")
    ask(chat, "third")
    wait_for_answers(chat)
    assert [[m["content"] for m in one["messages"]] for one in sent] == [
        ["first"], ["first", "first", "second"], ["third"],
    ]  # fmt: skip


def test_an_answer_grows_and_escape_stops_it(site, chat):
    engine = site.engines["v1"]
    engine.say(3)
    ask(chat, "word " * 20)
    site.until(lambda: read_answers(chat) == ["word word word"])
    assert chat.locator("#log").get_attribute("aria-busy") == "true"
    chat.keyboard.press("Escape")
    chat.wait_for_selector("text=Stopped")
    site.until(site.events)
    engine.may_step.set()
    site.until(lambda: engine.get_stats().running == 0)
    assert read_answers(chat)[0].startswith("word word word") and len(read_answers(chat)[0].split()) < 20
    assert chat.locator("#prompt").input_value().startswith("word")  # to be changed and sent again
    assert chat.locator("#send").is_visible() and chat.problems == []


def test_thumbs_send_a_rating_and_no_text_and_a_correction_is_sent_with_its_question(site, chat):
    ask(chat, "one two")
    wait_for_answers(chat)
    chat.click("[aria-label='Good answer']")
    chat.wait_for_selector("[aria-label='Good answer'][aria-pressed=true]")
    (event,) = site.events(FEEDBACK)
    assert event["llmops.feedback.rating"] == "up" and "llmops.feedback.question" not in event
    assert event["http.request.id"] == site.events()[0]["http.request.id"]
    chat.click("[aria-label='Bad answer']")
    chat.wait_for_selector(".correction textarea:focus")
    chat.keyboard.press("Control+A")
    ask(chat, "three four")
    chat.wait_for_selector(".correction", state="hidden")
    assert chat.evaluate("document.activeElement.id") == "prompt"  # and not lost
    event = site.events(FEEDBACK)[-1]
    texts = [event[f"llmops.feedback.{name}"] for name in ("question", "answer", "correction")]
    assert texts == ["one two", "one two", "three four"]


def test_what_a_model_says_is_never_markup_and_code_stands_out(chat):
    markdown = (
        "<img src=x onerror=alert(1)>\nCall `f` so:\n```python\nif <b>x</b>:\n    f()\n```\nThen\n```\nstill open"
    )
    ask(chat, markdown)
    wait_for_answers(chat)
    assert chat.locator(".bubble.model pre").all_inner_texts() == ["if <b>x</b>:\n    f()", "still open"]
    assert chat.locator(".bubble.model code").all_inner_texts() == ["f"]
    assert [line for line in read_answers(chat)[0].split("\n") if line.strip()] == [
        "<img src=x onerror=alert(1)>", "Call f so:", "if <b>x</b>:", "    f()", "Then", "still open",
    ]  # fmt: skip
    assert chat.locator(".bubble img, .bubble b").count() == 0


def test_sources_are_footnotes_that_open_and_no_markup(chat):
    source = {"title": "<b>A</b>", "location": "https://shop.example/a", "position": "p. 1", "snippet": "Say <i>so</i>"}
    choice = {"delta": {"content": "Yes."}, "finish_reason": "stop"}
    event = json.dumps({"choices": [choice], "system_fingerprint": "v1", "sources": [source]})
    response = {"body": f"data: {event}\n\ndata: [DONE]\n\n", "content_type": "text/event-stream"}
    chat.route("**/v1/**", lambda route: route.fulfill(**response))
    ask(chat, "Is it so?")
    chat.click("ol.sources summary >> text=<b>A</b>")
    assert chat.locator("ol.sources a").get_attribute("href") == source["location"]
    assert chat.locator("ol.sources .snippet").inner_text() == source["snippet"]


def test_an_answer_without_documents_says_so(chat):
    choice = {"delta": {"content": "Yes."}, "finish_reason": "stop"}
    event = json.dumps({"choices": [choice], "system_fingerprint": "v1", "sources": [], "from_documents": False})
    response = {"body": f"data: {event}\n\ndata: [DONE]\n\n", "content_type": "text/event-stream"}
    chat.route("**/v1/**", lambda route: route.fulfill(**response))
    ask(chat, "Is it so?")
    chat.wait_for_selector("text=The model answered without the documents.")


def test_a_server_that_is_gone_or_full_is_told_and_the_question_kept(chat):
    chat.route("**/v1/**", lambda route: route.abort())
    ask(chat, "hello")
    assert read_error(chat) == "The server does not answer."
    assert chat.locator("#prompt").input_value() == "hello" and chat.locator("#send").is_visible()
    chat.unroute("**/v1/**")
    chat.keyboard.press("Enter")
    wait_for_answers(chat)
    full = '{"error": {"message": "The queue is full (64 waiting); try again in 3 s."}}'
    chat.route("**/v1/**", lambda route: route.fulfill(status=429, body=full, content_type="application/json"))
    ask(chat, "hello")
    chat.wait_for_selector(".bubble .bad >> text=try again in 3 s")
    chat.unroute("**/v1/**")
    chat.click("#clear")
    ask(chat, "good bad")  # it fails in the middle
    assert read_error(chat) and "good" in read_answers(chat)[0]


def test_a_session_is_kept_where_no_script_can_read_it_and_ends_when_somebody_signs_out(chat, served):
    assert chat.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    other = chat.context.new_page()
    other.goto(served[1])
    assert other.locator("#signin").count() == 0
    other.click("text=Sign out")
    other.wait_for_selector("#api_key:focus")
    other.close()
    ask(chat, "one two")
    chat.wait_for_selector("#over >> text=Sign in")
    assert chat.locator("#prompt").input_value() == "one two"


def test_one_sign_in_at_a_provider_is_good_for_all_pages(page, provider):
    provider.add("ana", "shop-admins")
    page.click("text=Sign in with localhost")
    page.fill("[name=sub]", "ana")
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt:focus")
    page.problems.clear()  # those of the provider's page, whose style is on another server
    ask(page, "one two")
    wait_for_answers(page)
    page.click("[aria-label='Good answer']")
    page.wait_for_selector("[aria-label='Good answer'][aria-pressed=true]")
    page.click("nav >> text=Dashboard")
    page.wait_for_selector("#versions td")
    page.click("nav >> text=Review")
    page.wait_for_selector("#counts >> text=waiting")
    assert page.locator(".who span").inner_text() == "ana@example.com · admin" and page.problems == []


def test_the_dashboard_shows_what_each_key_has_used(site, page, served):
    page.keyboard.type(site.keys["developer"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt:focus")
    ask(page, "one two")
    wait_for_answers(page)
    assert page.request.get(f"{served[1]}/usage").ok  # the counts are in the database then
    page.click("nav >> text=Dashboard")
    page.wait_for_selector("#usage td >> text=developer")
    with page.expect_download() as saved:
        page.click("#usage >> text=CSV")
    assert saved.value.suggested_filename.startswith("usage-2") and page.problems == []
