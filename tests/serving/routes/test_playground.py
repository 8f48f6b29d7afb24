"""The playground in a real browser, as somebody without a mouse uses it."""

import os

import pytest

from llmops.grounding.retriever import REFUSAL
from llmops.monitoring.datasets import FEEDBACK
from serving.engines.echo import EchoEngine

from ...documents import CHESS, DELIVERY


@pytest.fixture
def url(site, monkeypatch):
    monkeypatch.setattr(
        "serving.engines.echo._words", lambda prompt: prompt.messages[-1].content.split(" ")
    )  # lines stay
    with site.live(lambda v: site.engines.setdefault(v.name, EchoEngine(token_s=0.01, fail_on="bad"))) as url:
        yield url


@pytest.fixture
def page(browser, url):
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.set_default_timeout(30_000)
    page.goto(url)
    page.wait_for_selector("#api_key:focus")
    page.problems = problems
    yield page
    page.close()


@pytest.fixture
def chat(site, page):
    """The page, signed in."""
    page.keyboard.type(site.keys["user"])  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt:focus")
    page.problems.clear()  # that nobody was signed in
    return page


def ask(page, text):
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def answers(page):
    return [text.strip() for text in page.locator(".bubble.model .text").all_inner_texts()]


def answered(page, count=1):
    page.locator(".feedback").nth(count - 1).wait_for()


def test_a_question_is_answered_by_keyboard_alone(chat):
    ask(chat, "one two three")
    answered(chat)
    assert answers(chat) == ["one two three"]
    facts = chat.locator(".facts .badge").all_inner_texts()
    assert facts[0] == "v1" and "3 → 3 tokens" in facts
    assert chat.locator("#ready").inner_text() == "v1 is ready"
    assert chat.evaluate("document.activeElement.id") == "prompt"
    assert chat.problems == []


def test_shift_enter_makes_a_new_line(chat):
    chat.keyboard.type("a")
    chat.keyboard.press("Shift+Enter")
    ask(chat, "b")
    answered(chat)
    assert chat.locator(".bubble.user .text").inner_text() == "a\nb"


def test_the_conversation_is_sent_along_until_a_new_one_begins(chat):
    sent = []
    chat.on("request", lambda r: sent.append(r.post_data_json) if "completions" in r.url else None)
    ask(chat, "first")
    answered(chat)
    ask(chat, "second")
    answered(chat, 2)
    assert [m["content"] for m in sent[1]["messages"]] == ["first", "first", "second"]
    chat.click("#clear")
    ask(chat, "third")
    answered(chat)
    assert [m["content"] for m in sent[2]["messages"]] == ["third"]


def test_an_answer_grows_and_escape_stops_it(site, chat):
    ask(chat, "word " * 20)
    site.until(lambda: answers(chat) and len(answers(chat)[0]) > 4)
    assert chat.locator("#log").get_attribute("aria-busy") == "true"
    chat.keyboard.press("Escape")
    chat.wait_for_selector("text=Stopped")
    site.until(lambda: site.engines["v1"].stats().running == 0)
    assert len(answers(chat)[0].split()) < 20
    assert chat.locator("#prompt").input_value().startswith("word")  # to be changed and sent again
    assert chat.locator("#send").is_visible() and chat.problems == []


def test_thumbs_send_a_rating_and_no_text(site, chat):
    ask(chat, "one two")
    answered(chat)
    chat.click("[aria-label='Good answer']")
    chat.wait_for_selector("[aria-label='Good answer'][aria-pressed=true]")
    (event,) = site.events(FEEDBACK)
    assert event["llmops.feedback.rating"] == "up" and "llmops.feedback.question" not in event
    assert event["http.request.id"] == site.events()[0]["http.request.id"]


def test_a_correction_is_sent_with_its_question(site, chat):
    ask(chat, "one two")
    answered(chat)
    chat.click("[aria-label='Bad answer']")
    chat.wait_for_selector(".correction textarea:focus")
    chat.keyboard.press("Control+A")
    ask(chat, "three four")
    chat.wait_for_selector(".correction", state="hidden")
    assert chat.evaluate("document.activeElement.id") == "prompt"  # and not lost
    event = site.events(FEEDBACK)[-1]
    texts = [event[f"llmops.feedback.{name}"] for name in ("question", "answer", "correction")]
    assert texts == ["one two", "one two", "three four"]


def test_a_wrong_key_is_told_and_asked_for_again(site, page):
    page.keyboard.type("llmops_12345678_wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector(".notice")
    assert "not known" in page.locator(".notice").inner_text()
    page.wait_for_selector("#api_key:focus")
    page.keyboard.type(site.keys["user"])
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt:focus")


def test_a_session_that_is_over_is_told_and_another_begun_beside_the_conversation(site, page):
    key, entry = site.store.create("user", "short")
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#prompt:focus")
    ask(page, "first")
    answered(page)
    site.store.revoke(entry.prefix)
    ask(page, "second")
    page.wait_for_selector(".bubble .bad")
    assert "The session is over" in page.locator(".bubble .bad").inner_text()
    assert page.locator("#prompt").input_value() == "second"
    with page.expect_popup() as opened:
        page.click("text=Sign in again")
    opened.value.wait_for_selector("#api_key:focus")
    opened.value.keyboard.type(site.keys["user"])
    opened.value.keyboard.press("Enter")
    opened.value.wait_for_selector("#ready")
    opened.value.close()
    page.focus("#prompt")
    page.keyboard.press("Enter")
    answered(page, 2)
    assert answers(page)[-1] == "second" and "first" in answers(page)


def test_what_goes_wrong_in_the_middle_is_told_below_what_was_said(chat):
    ask(chat, "good bad")
    chat.wait_for_selector(".bubble .bad")
    assert "good" in answers(chat)[0]


def test_what_a_model_says_is_never_markup(chat):
    ask(chat, "<img src=x onerror=alert(1)><b>bold</b>")
    answered(chat)
    assert answers(chat) == ["<img src=x onerror=alert(1)><b>bold</b>"]
    assert chat.locator(".bubble img, .bubble b").count() == 0


def ask_lines(page, text):
    for line in text.split("\n")[:-1]:
        page.keyboard.type(line)
        page.keyboard.press("Shift+Enter")
    ask(page, text.split("\n")[-1])


def test_code_stands_out_and_stays_text(chat):
    ask_lines(chat, "Call `f` so:\n```python\nif <b>x</b>:\n    f()\n```\nThen\n```\nstill open")
    answered(chat)
    assert chat.locator(".bubble.model pre").all_inner_texts() == ["if <b>x</b>:\n    f()", "still open"]
    assert chat.locator(".bubble.model code").all_inner_texts() == ["f"]
    assert [line for line in answers(chat)[0].split("\n") if line.strip()] == [
        "Call f so:", "if <b>x</b>:", "    f()", "Then", "still open",
    ]  # fmt: skip
    assert chat.locator(".bubble b").count() == 0


def test_a_server_that_is_gone_is_told_and_the_question_kept(chat):
    chat.route("**/v1/**", lambda route: route.abort())
    ask(chat, "hello")
    chat.wait_for_selector(".bubble .bad")
    assert chat.locator(".bubble .bad").inner_text() == "The server does not answer."
    assert chat.locator("#prompt").input_value() == "hello" and chat.locator("#send").is_visible()
    chat.unroute("**/v1/**")
    chat.keyboard.press("Enter")
    answered(chat)


def test_a_full_queue_says_when_to_try_again(chat):
    told = '{"error": {"message": "The queue is full (64 waiting); try again in 3 s."}}'
    chat.route("**/v1/**", lambda route: route.fulfill(status=429, body=told, content_type="application/json"))
    ask(chat, "hello")
    chat.wait_for_selector(".bubble .bad")
    assert "try again in 3 s" in chat.locator(".bubble .bad").inner_text()


def test_settings_do_not_cover_the_last_answer(site, chat):
    chat.set_viewport_size({"width": 390, "height": 800})
    for n in range(6):
        ask(chat, "one two")
        answered(chat, n + 1)
    chat.click("summary")
    box_of = "document.querySelector('{}').getBoundingClientRect()"
    above = f"{box_of.format('.bubble:last-child')}.bottom <= {box_of.format('.composer')}.top"
    site.until(lambda: chat.evaluate(above))


def test_no_script_can_read_the_session_and_nothing_is_left_of_the_key(site, chat, url):
    ask(chat, "one")
    answered(chat)
    assert chat.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    assert site.keys["user"] not in chat.content()
    other = chat.context.browser.new_page()
    other.goto(url)
    assert other.locator("#api_key").is_visible()  # another browser knows nothing of it
    other.close()


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_nothing_is_cut_off_at_any_width(chat, width):
    chat.set_viewport_size({"width": width, "height": 700})
    ask_lines(chat, "w" * 100 + "\n```\n" + "c" * 80)
    answered(chat)
    chat.click("[aria-label='Bad answer']")
    chat.wait_for_selector(".correction textarea:focus")
    chat.click("summary")
    assert chat.evaluate("document.scrollingElement.scrollWidth") <= width


def test_everything_has_a_name_for_a_screen_reader(chat):
    ask(chat, "one two")
    answered(chat)
    unnamed = chat.evaluate(
        """[...document.querySelectorAll("button, input, textarea")].filter((e) =>
             e.type !== "hidden" && !e.labels?.length && !e.getAttribute("aria-label") && !e.textContent.trim()
           ).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert chat.locator("#log").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("enabled", [True, False])
def test_answers_from_the_documents_have_footnotes_that_open(grounded, browser, enabled):
    grounded.config = grounded.config.model_copy(
        update={"grounding": grounded.config.grounding.model_copy(update={"enabled": enabled})}
    )
    with grounded.live() as url:
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.set_default_timeout(30_000)
        page.goto(url)
        page.wait_for_selector("#api_key:focus")
        page.keyboard.type(grounded.keys["user"])
        page.keyboard.press("Enter")
        page.wait_for_selector("#prompt:focus")
        page.locator("#ground").wait_for()
        assert page.locator("#ground").is_checked() == enabled
        if not enabled:
            page.locator("#ground").check()
            page.locator("#prompt").focus()
        ask(page, DELIVERY)
        answered(page)
        notes = page.locator(".sources summary")
        assert notes.first.inner_text() == "How long does delivery take?"
        assert not page.locator(".sources .snippet").first.is_visible()
        notes.first.focus()
        page.keyboard.press("Enter")
        assert page.locator(".sources .snippet").first.inner_text().startswith("Delivery takes three to five days")
        assert "faq.csv · row 1 · faq" in page.locator(".sources .hint").first.inner_text()
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{folder}/sources.png")
        page.locator("#prompt").focus()
        ask(page, CHESS)
        answered(page, 2)
        assert answers(page)[1] == REFUSAL and page.locator(".sources").count() == 1
        page.locator("#ground").uncheck()
        page.locator("#prompt").focus()
        ask(page, CHESS)
        answered(page, 3)
        assert answers(page)[2] == CHESS and page.locator(".sources").count() == 1
        page.close()
