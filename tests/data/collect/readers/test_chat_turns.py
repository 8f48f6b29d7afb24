"""Chat transcripts and messages."""

from __future__ import annotations

import gzip
import json
import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.config import Source, Speakers
from llmops.data.collect.readers import chat_turns
from llmops.data.collect.readers.origin import Origin
from llmops.data.collect.readers.speakers import known_side
from llmops.records import Document, Dropped
from tests.data.collect.readers.reading import documents, dropped, pairs, read_file

read = partial(read_file, "chat", name="x.txt")
lines = partial(read_file, "chat", name="x.jsonl")

MESSAGES = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}'
TRANSCRIPT = """# topic: returns
# context: Policy: 30 days.
Agent: Hello!
Customer: Can I send it back?
It is a tent.
[10:02] Agent (Mia): Yes.
Within 30 days.
Customer: Thanks
---
Customer: No topic?
Agent: None.

# topic: shipping
2026-01-03 10:02 USER: How long?
System: typing
Support 2: Three days: at most.

# id: 7
Customer: Topic gone?
Agent: Yes.
"""


def test_each_turn_pair_of_a_transcript_is_a_document(tmp_path: Path) -> None:
    items = documents(read(tmp_path, TRANSCRIPT))
    assert [(i.group, i.context, i.question, i.answer, i.text) for i in items] == [
        ("returns", "", "", "", "Hello!"),
        ("returns", "Policy: 30 days.", "Can I send it back? It is a tent.", "Yes.\nWithin 30 days.", ""),
        ("returns", "", "Thanks", "", ""),
        ("", "", "No topic?", "None.", ""),
        ("shipping", "", "How long?", "Three days: at most.", ""),
        ("", "", "Topic gone?", "Yes.", ""),
    ]
    assert items[1].position == "line 4"


ODD = {
    "the agent greets": (
        "Maria: Hello, how can I help you?\nTom: My tent is broken.\nMaria: We repair it.",
        ["|Hello, how can I help you?", "My tent is broken.|We repair it."],
    ),
    "stamps": (
        "[10:32] Anna: Is it new?\nNote: the blue one\n[10:33] Maria: Yes.\nPrice: 10 €\n[10:34] Anna: Fine",
        ["Is it new? Note: the blue one|Yes.\nPrice: 10 €"],
    ),
    "opening hours": (
        "Anna: When?\nMaria: It is:\n09:00-18:00 Mon-Fri: phone\n10:00-14:00 Sat: chat\nAnna: Sunday?\nMaria: No.",
        ["When?|It is:\n09:00-18:00 Mon-Fri: phone\n10:00-14:00 Sat: chat", "Sunday?|No."],
    ),
    "colons in what is said": (
        "Customer: I want:\nPrice: 10 €\nsize: 42\nTent: red\nSee https://x.example\nAgent: Gladly.\nTip: dry it.",
        ["I want: Price: 10 € size: 42 Tent: red See https://x.example|Gladly.\nTip: dry it."],
    ),
    "a number sign": (
        "Customer: My order is\n#1234, where is it?\nAgent: So:\n      if a:\n          b()\n",
        ["My order is #1234, where is it?|So:\nif a:\n    b()"],
    ),
    "Chinese": ("客户：是新的吗？\n客服：是的。\n价格：10", ["是新的吗？|是的。\n价格：10"]),
    "two speakers without names": (
        "Speaker 1: Is it new?\nSpeaker 2: Yes.\nSpeaker 1: And it?\nSpeaker 2: Yes, too.",
        ["Is it new?|Yes.", "And it?|Yes, too."],
    ),
    "several customers without names": (
        "Customer 1: Is it new?\nAgent: Yes.\nCustomer 2: Is it red?\nCustomer 1: Is it big?\nAgent: No.\n"
        "Agent 2: Never.",
        ["Is it new?|Yes.", "Is it red?|", "Is it big?|No.\nNever."],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_speakers_are_found_by_structure(tmp_path: Path, name: str) -> None:
    text, expected = ODD[name]
    items = documents(read(tmp_path, text))
    found = [f"{i.question}|{i.answer or i.text}" for i in items]
    assert found[: len(expected)] == expected and not any(i.answer for i in items[len(expected) :])


ANSWERING = "Agent|Agent 2|Helpdesk|customer service 7|Служба|客服|サポート"
ASKING = "Customer|Customer 1|Human|Kunde|Cliente|客户|Visitor 8123"
NEITHER = "Anna|Anna Miller|Room service|Customer Support|Service|Desk|Note for the team"


def test_a_label_is_known_by_a_word_for_a_role_or_by_the_source() -> None:
    named = Speakers(asks=("Visitor *",), answers=("Служба", "Customer service*"))
    for labels, side in ((ANSWERING, "answers"), (ASKING, "asks"), (NEITHER, None)):
        wanted = dict.fromkeys((label.strip() for label in labels.split("|")), side)
        assert {label: known_side(label.casefold(), named) for label in wanted} == wanted


THREE = "Anna: Is it new?\nMaria: Tim knows.\nAnna: Tim?\nTim: Yes, it is.\nAnna: Thanks"


def test_of_more_than_two_speakers_the_source_has_to_name_the_sides(tmp_path: Path) -> None:
    items = read(tmp_path, f"{THREE}\n---\nAnna: Is it red?\nMaria: No.")
    assert dropped(items) == [("malformed", "line 1")] and pairs(items) == [("Is it red?", "No.")]
    (why,) = [item.detail for item in items if isinstance(item, Dropped)]
    assert "anna, maria, tim" in why and "`speakers`" in why
    for named in ({"answers": ("Maria", "tim")}, {"asks": ("A*",)}, {"asks": ("Anna",), "answers": ("Maria", "Tim")}):
        assert pairs(read(tmp_path, THREE, speakers=named))[:2] == [
            ("Is it new?", "Tim knows."), ("Tim?", "Yes, it is."),
        ]  # fmt: skip
    both = {"asks": ("Tim",), "answers": ("Maria",)}
    assert dropped(read(tmp_path, THREE, speakers=both)) == [("malformed", "line 1")]  # Anna is nobody there


OFFERS = [  # what the agent greets with, and how a customer asks for help
    ("Hello, how may I assist you?", "My tent is torn. Can you help me?"),
    ("Womit kann ich Ihnen helfen?", "Mein Zelt ist undicht, was kann ich tun?"),
    ("Hola, ¿en qué puedo servirle?", "¿Me puede ayudar?"),
    ("Здравствуйте, чем могу помочь?", "Вы можете мне помочь?"),
    ("您好，有什么可以帮您？", "你能帮我吗？"),
    ("いらっしゃいませ。どうされましたか？", "手伝ってください。直せますか？"),
    ("मैं आपकी क्या मदद कर सकता हूँ?", "क्या आप मेरी मदद कर सकते हैं?"),
]


@pytest.mark.parametrize(("offer", "request_"), OFFERS)
def test_who_offers_help_answers_and_who_asks_for_it_asks(tmp_path: Path, offer: str, request_: str) -> None:
    greeted = f"Maria: {offer}\nJonas: {request_}\nMaria: The zip first.\nJonas: Then?\nMaria: The rest."
    first, second, third = documents(read(tmp_path, greeted))
    assert (first.text, second.question, third.question) == (offer, request_, "Then?")
    begun = f"Jonas: {request_}\nMaria: {offer}\nJonas: Then?\nMaria: The rest."
    assert [question for question, _ in pairs(read(tmp_path, begun))] == [request_, "Then?"]
    # the one who asks comes second and asks for help only
    late = f"Maria: Welcome. {offer}\nJonas: Hello.\nMaria: Yes.\nJonas: {request_}\nMaria: Gladly."
    assert documents(read(tmp_path, late))[-1].question == request_


def test_earlier_turns_are_the_context_the_newest_of_them(tmp_path: Path) -> None:
    text = "# context: Tents.\nAnna: Do you have it?\nMaria: Yes, we do.\nAnna: And in blue?\nMaria: No, only in red."
    first, second = documents(read(tmp_path, text))
    assert (first.question, first.context) == ("Do you have it?", "Tents.")
    assert (second.question, second.answer) == ("And in blue?", "No, only in red.")
    assert second.context == "Tents.\nCustomer: Do you have it?\nAgent: Yes, we do."
    long = "\n".join(f"Customer: Question {n}?\nAgent: {'word ' * 30}{n}." for n in range(20))
    items = documents(read(tmp_path, long))
    assert all(len(i.context) <= 700 for i in items) and items[-1].context.endswith("word 18.")


@given(st.text("Aa:：1[] \n?-#", max_size=200))
def test_no_line_is_lost(text: str) -> None:
    with TemporaryDirectory() as folder:
        items = read(Path(folder), text)
    kept = "".join(i.question + i.answer + i.text if isinstance(i, Document) else i.content for i in items if i)
    for line in text.split("\n"):
        if not line.strip().startswith(("#", "-")):
            said = re.split("[:：]", line)[-1]
            assert "".join(re.findall(r"[Aa1?]", said)) in "".join(re.findall(r"[Aa1?]", kept))


@pytest.mark.parametrize(
    ("chat", "positions", "answer"),
    [
        (
            "1/3/26, 9:05 AM - Anna: Is it new?\n1/3/26, 11:15 PM - Tom joined\n1/3/26, 9:06 AM - Shop: Yes,\n10:30.",
            ["line 2"],
            "Yes,\n10:30.",
        ),
    ],
)
def test_a_line_of_nobody_is_quarantined_and_no_part_of_a_turn(
    tmp_path: Path, chat: str, positions: list[str], answer: str
) -> None:
    items = read(tmp_path, chat)
    assert dropped(items) == [("malformed", position) for position in positions]
    assert pairs(items) == [("Is it new?", answer)]


def test_messages(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "name": "Ana", "content": "Q1"},
        {"role": "assistant", "content": [{"type": "text", "text": "A1"}, {"type": "image_url"}]},
        {"role": "user", "name": "Tom", "content": "Q2"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"},
        {"role": "agent", "content": "A2"},
    ]
    items = documents(lines(tmp_path, json.dumps({"topic": "t", "context": "c", "messages": messages})))
    assert [(i.question, i.answer, i.context, i.group, i.position) for i in items] == [
        ("Q1", "A1", "c", "t", "line 1, message 2"),
        ("Q2", "A2", "c\nCustomer 1: Q1\nAgent: A1", "t", "line 1, message 4"),
    ]


def test_gzipped_logs_are_told_by_the_name_before_gz(tmp_path: Path) -> None:
    (tmp_path / "kept elsewhere").write_bytes(gzip.compress(MESSAGES.encode()))
    origin = Origin(Source(name="s", kind="chat", location="x"), "x.jsonl.gz")
    assert pairs(chat_turns.read(tmp_path / "kept elsewhere", origin)) == [("Q", "A")]


@pytest.mark.parametrize(
    ("before", "noon"),
    [
        ("31/12/25, 11:58\u202fa.\u00a0m. - ", "31/12/25, 12:02\u202fp.\u00a0m. - "),
        ("\u200f٣١\u200f/١٢\u200f/٢٠٢٥، ١١:٥٨ ص - ", "\u200f٣١\u200f/١٢\u200f/٢٠٢٥، ١٢:٠٢ م - "),
        ("31.12.2025 klo 11.58 - ", "31.12.2025 klo 12.02 - "),
        ("31 de dic. de 2025 11:58 - ", "31 de dic. de 2025 12:02 - "),
        ("Wed, December 31st, 2025 at 11:58 - ", "Wed, December 31st, 2025 at 12:02 - "),
    ],
)
def test_halves_of_a_day_and_months_are_no_part_of_a_name(tmp_path: Path, before: str, noon: str) -> None:
    said = [before + line for line in ("All is encrypted", "Anna: Is it new?", "Luis: Yes, by May 3, 2026.")]
    said += [noon + line for line in ("Anna: When?", "Luis: Now.", "Leo joined")]
    items = read(tmp_path, "\n".join(said))
    assert pairs(items) == [("Is it new?", "Yes, by May 3, 2026."), ("When?", "Now.")]
    assert sorted(dropped(items)) == [("malformed", "line 1"), ("malformed", "line 6")]


@pytest.mark.parametrize(
    "more",
    ["# install it\npip install x", "---\nThen restart it and wait.", "```\n# 1\nname: b\n---\nc: d\n```"],
)
def test_rules_and_comments_within_an_answer_are_text(tmp_path: Path, more: str) -> None:
    chat = f"Anna: How do I install it?\nMaria: Run this:\n{more}\nAnna: Is it free?\nMaria: Yes."
    expected = [("How do I install it?", f"Run this:\n{more}"), ("Is it free?", "Yes.")]
    assert pairs(read(tmp_path, chat)) == expected
