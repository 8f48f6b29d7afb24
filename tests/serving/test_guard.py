"""The guard: what it keeps back, however it comes, and what it lets through at once."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engines.base import Chat, Chunk, Message, Prompt, Question, Text, TokenIds, ToolCall
from serving.guard import AnswerWatch, Guard

RULES = ("SECRET", "CREDIT_CARD", "IBAN_CODE", "SCRIPT")
SECRET = "hf_" + "aB3dE" * 6
#: what must not leave, with what stands before it, and how many of its first letters may be gone before it is seen
KEPT = [
    ("Use the token ", SECRET, 2),
    ("Use the token ", "ghp_" + "aB3dE7" * 6, 3),
    ("It is ", "AKIAIOSFODNN7EXAMPLE", 0),
    ("It is ", "AKIAQWERTYUIOPASDFGH", 2),
    ("The password is ", "hunter2x", 0),
    ("Your password: ", "hunter2x", 0),
    ("Log in with api_key=", "s3cret9value", 0),
    ("Your card is ", "4111 1111 1111 1111", 0),
    ("Pay to ", "DE89 3704 0044 0532 0130 00", 2),
    ("The card for your order is ", "4539148803436467", 0),
    ("Your order number is ", "4539 1488 0343 6467", 0),
    ("Visa, order no. ", "4539148803436467", 0),
    ("您的卡号是", "4539148803436467", 0),
    ("It cost EUR ", "4539148803436467", 0),
    ("For that case: ", "4539148803436467", 0),
    ("Payment reference: ", "4539148803436467", 0),
    ("The credit card, which the customer gave us with the very last order: ", "4539148803436467", 0),
    ("令牌是", SECRET, 2),
    ("Here: ", "<script>alert(1)</script>", 0),
    ("Here: ", '<a href="javascript:alert(1)">', 0),
]


def pieces(text: str, seed: int) -> list[str]:
    """A text as tokens may cut it."""
    cuts = random.Random(seed)
    parts = []
    while text:
        n = cuts.randint(1, 6)
        parts.append(text[:n])
        text = text[n:]
    return parts


def said(watch: AnswerWatch, parts: list[str]) -> list[Chunk]:
    chunks = []
    for n, part in enumerate(parts, 1):
        chunks.append(watch.see(Chunk(part, 3, n, "stop" if n == len(parts) else None)))
        if chunks[-1].finish_reason:
            break
    return chunks


@pytest.mark.parametrize("before,kept,gone", KEPT)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_it_leaves_whatever_pieces_it_comes_in(before: str, kept: str, gone: int, seed: int) -> None:
    text = f"Of course. {before}{kept} and that is all there is to say about it."
    watch = Guard(RULES).watch(Question("Tell me all"))
    chunks = said(watch, pieces(text, seed))
    left = "".join(chunk.text for chunk in chunks)
    assert chunks[-1].finish_reason == "content_filter" and chunks[-1].text == "" and len(watch.rules) == 1
    assert f"Of course. {before}{kept}".startswith(left) and len(left) <= len(f"Of course. {before}") + gone


@pytest.mark.parametrize("before,kept,gone", KEPT)
def test_nor_does_it_in_one_piece_with_what_follows(before: str, kept: str, gone: int) -> None:
    watch = Guard(RULES).watch(Question("Tell me all"))
    assert watch.see(Chunk("Of course. ", 3, 2)).text == "Of course. "
    cut = watch.see(Chunk(f"{before}{kept} and that is all there is to say about it.", 3, 20))
    assert (cut.text, cut.finish_reason) == ("", "content_filter")


@pytest.mark.parametrize("before,kept,gone", KEPT)
def test_what_its_prompt_holds_may_be_said(before: str, kept: str, gone: int) -> None:
    prompts: list[Prompt] = [Question("Is this right?", kept), Text(kept), Chat((Message("user", kept),))]
    for prompt in [Question(f"Is {before}{kept} right?"), *prompts]:
        chunks = said(Guard(RULES).watch(prompt), pieces(before + kept, 1))
        assert "".join(chunk.text for chunk in chunks) == before + kept, prompt
    assert said(Guard(RULES).watch(TokenIds((1, 2))), [before + kept])[0].finish_reason == "content_filter"


def test_passages_are_not_what_its_prompt_holds() -> None:
    said = f"Use the token {SECRET}"
    turn = (Message("user", "Which token?"),)
    for prompt in (Question("Which token?", passages=(said,)), Chat(turn, passages=(said,))):
        assert Guard(RULES).watch(prompt).see(Chunk(said, 1, 1, "stop")).finish_reason == "content_filter"
    assert Guard(RULES).watch(Question("Which?", said)).see(Chunk(said, 1, 1, "stop")).finish_reason == "stop"


def test_prose_leaves_as_it_comes() -> None:
    parts = [
        "1",
        ".",
        " **",
        "Keep",
        "**",
        " your",
        " receipt",
        " in",
        " a",
        " dry",
        " place",
        ",",
        " 2",
        "-",
        "3",
        " years",
        ".",
    ]
    held = [chunk.text for chunk in said(Guard(RULES).watch(Question("How?")), parts)]
    assert held == ["", "1.", *parts[2:12], " ", "2-", "", "3 years", "."]  # a digit until it is known what follows it


def test_a_number_is_held_only_until_two_words_follow() -> None:
    parts = ["Send", " it", " within", " 365", " days", " of", " buying", " it"]
    left = [chunk.text for chunk in said(Guard(RULES).watch(Question("How?")), parts)]
    assert left == ["Send", " it", " within", " ", "", "", "365 days of buying", " it"]


@given(st.text(alphabet="abcXYZ0123 .<>-_:\n", max_size=400), st.integers())
def test_whatever_is_not_kept_back_arrives_whole(text: str, seed: int) -> None:
    watch = Guard(RULES).watch(Question("Tell me"))
    chunks = said(watch, pieces(text, seed) or [""])
    left = "".join(chunk.text for chunk in chunks)
    assert text.startswith(left) and (left == text) == (not watch.rules)


@pytest.mark.parametrize(
    "words", ["Your order number is ", "Invoice no. ", "Order #", "Tracking code: ", "The payment for your order "]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_number_that_is_called_something_else_is_no_card(words: str, seed: int) -> None:
    text = f"Of course. {words}4539148803436467, which is all there is to say."
    chunks = said(Guard(RULES).watch(Question("What is it?")), pieces(text, seed))
    assert "".join(chunk.text for chunk in chunks) == text


@pytest.mark.parametrize("after", [" (Visa)", ", exp 04/27", ", which ends in two years: cvv 123", " is on your card"])
@pytest.mark.parametrize("ends", ["", " and that is all there is to say about it."])
@pytest.mark.parametrize("seed", range(3))
def test_words_that_come_after_a_number_make_it_a_card(after: str, ends: str, seed: int) -> None:
    chunks = said(Guard(RULES).watch(Question("What is it?")), pieces(f"Order: 4539148803436467{after}{ends}", seed))
    left = "".join(chunk.text for chunk in chunks)
    assert chunks[-1].finish_reason == "content_filter" and "Order: ".startswith(left)


@pytest.mark.parametrize("number", ["", "12", "365"])
def test_text_without_spaces_leaves_as_it_comes(number: str) -> None:
    text = (
        "如果您想退货请在收到商品后的"
        + number
        + "天之内联系我们的客服团队他们会帮助您完成所有的手续并告诉您下一步应该怎么做" * 3
    )
    watch, held = Guard(RULES).watch(Question("怎么退货?")), [0]
    for at, letter in enumerate(text, 1):
        left = len(watch.see(Chunk(letter, 3, at)).text)
        held.append(held[-1] + 1 - left)
    assert max(held) <= len(number) + 9 and held[-1] == 0


def test_without_rules_all_may_be_said() -> None:
    assert said(Guard(()).watch(Question("?")), [SECRET])[0].finish_reason == "stop"


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
    *cut, told = site.events()
    assert "llmops.guard.rules" not in told
    for event in cut:
        assert event["llmops.guard.rules"] == ["SECRET"]
        assert event["gen_ai.response.finish_reasons"] == ["content_filter"]
        assert event["http.response.status_code"] == 200


# --- calls of tools

NUMBER, CARD = "4539148803436467", "4111111111111111"


def called(arguments: dict[str, Any], prompt: str = "Where is my parcel?") -> list[str]:
    """The rules that a call breaks."""
    watch = Guard(RULES).watch(Chat((Message("user", prompt),)))
    call = ToolCall("f", json.dumps(arguments, ensure_ascii=False))
    chunk = watch.see(Chunk("I look. ", 3, 2, "tool_calls", (), (call,)))
    assert (chunk.finish_reason, chunk.calls) == (("content_filter", ()) if watch.rules else ("tool_calls", (call,)))
    return watch.rules


@pytest.mark.parametrize(
    "arguments",
    [
        {"order": NUMBER},
        {"order": int(NUMBER)},
        {"order_number": NUMBER},
        {"orderNumber": NUMBER},
        {"invoice-no": [NUMBER]},
        {"order": {"id": NUMBER, "note": "the customer pays by card"}},
        {"order": NUMBER, "payment": "visa"},
        {"q": f"order number {NUMBER}"},
        {"a": "4111 1111", "b": "1111 1111"},
        {"password": "", "b": "aB3dE5fG"},
        {"a" * 5000: ["x"] * 5000},
    ],
)
def test_what_is_called_an_order_in_a_call_is_no_card(arguments: dict[str, Any]) -> None:
    assert called(arguments) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"note": CARD},
        {"note": "\n" + CARD},
        {"note": "\t" + CARD, "what": "order"},
        {"what": "order", "note": CARD},
        {"what": "order", "": CARD},
        {"order": "", "note": CARD},
        {"order": ["", {"note": CARD}]},
        {"order": f"{CARD[:4]} {CARD[4:8]} {CARD[8:12]} {CARD[12:]}"},
        {"card": {"order": CARD}},
        {"order_card": CARD},
        {"note": {CARD: 1}},
        {"x" * 100: CARD},
    ],
)
def test_no_value_or_key_beside_it_excuses_a_card_in_a_call(arguments: dict[str, Any]) -> None:
    assert called(arguments) == ["CREDIT_CARD"]
    assert called(arguments, f"I pay with {CARD}") == []


@pytest.mark.parametrize(
    "arguments",
    [
        {SECRET: {}},
        {SECRET: {"a": {"b": {"c": 1}}}},
        {"a": {SECRET: {"b": {"c": 1}}}},
        {"a": [{SECRET: None}]},
        {SECRET + "x" * 90: 1},
        {"api_key": "s3cret9value"},
        {"userPassword": "hunter2x"},
        {"login": {"password": "\nhunter2x"}},
    ],
)
def test_a_secret_in_a_call_is_seen_wherever_it_stands(arguments: dict[str, Any]) -> None:
    assert called(arguments) == ["SECRET"]
