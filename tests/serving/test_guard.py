"""The guard: what it keeps back, however it comes, and what it lets through at once."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engines.base import Chat, Chunk, Message, Prompt, Question, Text, TokenIds
from serving.guard import AnswerFilter, Guard

RULES = ("SECRET", "CREDIT_CARD", "IBAN_CODE", "SCRIPT")
SECRET = "hf_" + "aB3dE" * 6
#: what must not leave, with what stands before it, and how many of its first letters may be gone before it is seen
KEPT = [
    ("Use the token ", SECRET, 2),
    ("Use the token ", "ghp_" + "aB3dE7" * 6, 3),
    ("It is ", "AKIAIOSFODNN7EXAMPLE", 0),
    ("The password is ", "hunter2x", 0),
    ("Log in with api_key=", "s3cret9value", 0),
    ("Your card is ", "4111 1111 1111 1111", 0),
    ('{"card":"', "4111111111111111", 0),
    ('{"password": "', "hunter2x", 0),
    ("Pay to ", "DE89 3704 0044 0532 0130 00", 2),
    ("您的卡号是", "4111111111111111", 0),
    ("令牌：", SECRET, 2),
    ("Here: ", "<script>alert(1)</script>", 0),
    ("Here: ", '<a href="javascript:alert(1)">', 0),
]


def cut_text(text: str, seed: int) -> list[str]:
    cuts = random.Random(seed)
    parts = []
    while text:
        n = cuts.randint(1, 6)
        parts.append(text[:n])
        text = text[n:]
    return parts


def feed_all(watch: AnswerFilter, parts: list[str]) -> list[Chunk]:
    chunks = []
    for n, part in enumerate(parts, 1):
        chunks.append(watch.feed(Chunk(part, 3, n, "stop" if n == len(parts) else None)))
        if chunks[-1].finish_reason:
            break
    return chunks


@pytest.mark.parametrize("before,kept,gone", KEPT)
def test_nothing_of_it_leaves_in_any_pieces_unless_its_prompt_holds_it(before: str, kept: str, gone: int) -> None:
    guard = Guard(RULES)
    for seed in range(3):
        watch = guard.make_filter(Question("Tell me all"))
        chunks = feed_all(watch, cut_text(f"Of course. {before}{kept} and that is all there is to say about it.", seed))
        left = "".join(chunk.text for chunk in chunks)
        assert chunks[-1].finish_reason == "content_filter" and chunks[-1].text == "" and len(watch.rules) == 1
        assert f"Of course. {before}{kept}".startswith(left) and len(left) <= len(f"Of course. {before}") + gone
    watch = guard.make_filter(Question("Tell me all"))  # in one piece with what follows
    assert watch.feed(Chunk("Of course. ", 3, 2)).text == "Of course. "
    cut = watch.feed(Chunk(f"{before}{kept} and that is all there is to say about it.", 3, 20))
    assert (cut.text, cut.finish_reason) == ("", "content_filter")
    prompts: list[Prompt] = [Question("Is this right?", kept), Text(kept), Chat((Message("user", kept),))]
    for prompt in [Question(f"Is {before}{kept} right?"), *prompts]:
        chunks = feed_all(guard.make_filter(prompt), cut_text(before + kept, 1))
        assert "".join(chunk.text for chunk in chunks) == before + kept, prompt
    assert feed_all(guard.make_filter(TokenIds((1, 2))), [before + kept])[0].finish_reason == "content_filter"
    assert feed_all(Guard(()).make_filter(Question("?")), [before + kept])[0].finish_reason == "stop"  # without rules


def test_prose_leaves_as_it_comes_and_a_number_when_two_words_follow() -> None:
    parts = ["1", ".", " **", "Keep", "**", " your", " place", ",", " 2", "-", "3", " years", "."]
    held = [chunk.text for chunk in feed_all(Guard(RULES).make_filter(Question("How?")), parts)]
    assert held == ["", "1.", *parts[2:8], " ", "2-", "", "3 years", "."]  # a digit until it is known what follows it
    parts = ["Send", " it", " within", " 365", " days", " of", " buying", " it"]
    left = [chunk.text for chunk in feed_all(Guard(RULES).make_filter(Question("How?")), parts)]
    assert left == ["Send", " it", " within", " ", "", "", "365 days of buying", " it"]


def test_an_order_number_is_no_card() -> None:
    text = "Your order number is 4539148803436467, thank you."
    for parts in ([text], cut_text(text, 1)):
        assert "".join(chunk.text for chunk in feed_all(Guard(RULES).make_filter(Question("Where?")), parts)) == text


@pytest.mark.parametrize(("number", "held"), [("", 0), ("12", 12)])
def test_a_script_without_spaces_leaves_as_it_comes_and_after_a_number_soon(number: str, held: int) -> None:
    sentence = "您的订单将在三个工作日内送达，如有疑问请随时联系我们。"
    watch, lags = Guard(RULES).make_filter(Question("何时送达？")), []
    for part in f"{sentence * 3}{number}{sentence * 3}":
        left = len(watch.feed(Chunk(part, 3, 1)).text)
        lags.append((lags[-1] if lags else 0) + 1 - left)
    assert max(lags) <= held and lags[-1] == 0


@given(st.text(alphabet="abcXYZ0123 .<>-_:\n号码，", max_size=400), st.integers())
def test_whatever_is_not_kept_back_arrives_whole(text: str, seed: int) -> None:
    watch = Guard(RULES).make_filter(Question("Tell me"))
    chunks = feed_all(watch, cut_text(text, seed) or [""])
    left = "".join(chunk.text for chunk in chunks)
    assert text.startswith(left) and (left == text) == (not watch.rules)


def test_a_cut_answer_is_an_answer_with_its_rule_in_the_event(site: Any, leaking: Any) -> None:
    with site.client(lambda version: leaking()) as client:
        site.ready(client)
        whole = site.ask(client, prompt="Say it").json()
        assert (whole["response"], whole["finish_reason"]) == ("Say it", "content_filter")
        body = {"model": "support-bot", "messages": [{"role": "user", "content": "Say it"}]}
        choice = client.post("/v1/chat/completions", json=body, headers=site.headers()).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Say it", "content_filter")
        stream = client.post("/v1/chat/completions", json=body | {"stream": True}, headers=site.headers()).text
        assert '"finish_reason":"content_filter"' in stream and SECRET[:6] not in stream
        assert site.ask(client, prompt=f"Say {SECRET}").json()["finish_reason"] == "stop"
    *cut, uncut = site.events()
    assert "llmops.guard.rules" not in uncut and len(cut) == 3
    for event in cut:
        assert (event["llmops.guard.verdict"], event["llmops.guard.rules"]) == ("cut", ["SECRET"])
        assert event["gen_ai.response.finish_reasons"] == ["content_filter"]
        assert event["http.response.status_code"] == 200 and event["llmops.answer.digest"]
