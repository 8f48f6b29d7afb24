"""Chat transcripts and messages."""

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
from llmops.data.collect.readers.speakers import HEAD_CHARS, find_known_side, is_sentence, parse_transcript_line
from llmops.frame.records import Document, DroppedRow
from tests.data.collect.readers.reading import get_documents, list_dropped, list_pairs, read_file
from tests.growth import assert_linear

read_transcript = partial(read_file, "chat", name="x.txt")
read_messages = partial(read_file, "chat", name="x.jsonl")

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
    items = get_documents(read_transcript(tmp_path, TRANSCRIPT))
    assert [(i.group, i.context, i.question, i.answer, i.text) for i in items] == [
        ("returns", "", "", "", "Hello!"),
        ("returns", "Policy: 30 days.", "Can I send it back? It is a tent.", "Yes.\nWithin 30 days.", ""),
        ("returns", "", "Thanks", "", ""),
        ("", "", "No topic?", "None.", ""),
        ("shipping", "", "How long?", "Three days: at most.", ""),
        ("", "", "Topic gone?", "Yes.", ""),
    ]
    assert items[1].position == "line 4"


UNUSUAL_CHATS = {
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
    "a role of two words that asks first": (
        "Customer Support: Hello. What is your order number?\nAnna Li: 12.\nCustomer Support: Thanks.\n"
        "Anna Li: Can it be returned?\nCustomer number: 12\nCustomer Support: Yes, within 30 days.",
        [
            "|Hello. What is your order number?",
            "12.|Thanks.",
            "Can it be returned? Customer number: 12|Yes, within 30 days.",
        ],
    ),
    "past midnight, with times in what is said": (
        "11:58 PM Anna: Is it new?\n12:01 AM Maria: It opens at\n10:00 on Monday,\n11:00 on Tuesday:\n"
        "12:02 AM Anna: And it?\n12:03 AM Maria: At\n12:00 or so.",
        ["Is it new?|It opens at\n10:00 on Monday,\n11:00 on Tuesday:", "And it?|At\n12:00 or so."],
    ),
    "a time of the day at the end": (
        "10:32 Anna: When?\n10:33 Maria: It opens at\n10:00 on Monday, and closes at\n18:00 every day.",
        ["When?|It opens at\n10:00 on Monday, and closes at\n18:00 every day."],
    ),
}


@pytest.mark.parametrize("name", UNUSUAL_CHATS)
def test_speakers_are_found_by_structure(tmp_path: Path, name: str) -> None:
    text, expected = UNUSUAL_CHATS[name]
    items = get_documents(read_transcript(tmp_path, text))
    found = [f"{i.question}|{i.answer or i.text}" for i in items]
    assert found[: len(expected)] == expected and not any(i.answer for i in items[len(expected) :])


ANSWERING = """
    Agent|Agent 2|Helpdesk|Customer Support|Customer Success Manager|Customer support Maria|Client advisor|Human agent|
    Guest services|Agent Smith|agent_1|human-agent|Anna Support|customer_service|Support Team|Kundenservice|
    Service client|Atención al cliente|Служба поддержки|Müşteri hizmetleri|客户服务|客服|고객 지원|خدمة العملاء|Bob 7
"""
ASKING = "Customer|Customer A|Customer 1|Customer Anna|end_user|user_1|Human|Kunde Jonas|Cliente|客户|Visitor 8123"
NEITHER = "Anna|Anna Miller|Room service|Call our customer service|Team|Service|Desk|Note for the team|User name"


def test_a_label_is_known_by_a_word_for_a_role_or_by_the_source() -> None:
    speakers = Speakers(asks=("Visitor 8*",), answers=("Bob *",))
    for labels, side in ((ANSWERING, "answers"), (ASKING, "asks"), (NEITHER, None)):
        expected = dict.fromkeys((label.strip() for label in labels.split("|")), side)
        assert {label: find_known_side(label.casefold(), speakers) for label in expected} == expected


THREE = "Anna: Is it new?\nMaria: Tim knows.\nAnna: Tim?\nTim: Yes, it is.\nAnna: Thanks"


def test_of_more_than_two_speakers_the_source_has_to_name_the_sides(tmp_path: Path) -> None:
    items = read_transcript(tmp_path, f"{THREE}\n---\nAnna: Is it red?\nMaria: No.")
    assert list_dropped(items) == [("malformed", "line 1")] and list_pairs(items) == [("Is it red?", "No.")]
    (detail,) = [item.detail for item in items if isinstance(item, DroppedRow)]
    assert "anna, maria, tim" in detail and "`speakers`" in detail
    for speakers in (
        {"answers": ("Maria", "tim")},
        {"asks": ("A*",)},
        {"asks": ("Anna",), "answers": ("Maria", "Tim")},
    ):
        assert list_pairs(read_transcript(tmp_path, THREE, speakers=speakers))[:2] == [
            ("Is it new?", "Tim knows."), ("Tim?", "Yes, it is."),
        ]  # fmt: skip
    both = {"asks": ("Tim",), "answers": ("Maria",)}
    assert list_dropped(read_transcript(tmp_path, THREE, speakers=both)) == [
        ("malformed", "line 1")
    ]  # Anna is nobody there
    for absent in ({"asks": ("Jo",)}, {"answers": ("Jo",)}, {"asks": ("Jo",), "answers": ("Bo",)}):
        (item,) = read_transcript(tmp_path, THREE, speakers=absent)
        assert isinstance(item, DroppedRow) and "none of the source's `speakers` (Jo" in item.detail


@pytest.mark.parametrize("name", ["Maria (support)", "[Maria]", "<Maria>", "Maria:"])
def test_a_speaker_that_no_label_can_be_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write 'Maria'"):
        Speakers(answers=(name,))


ROLES = [  # the source's `speakers`, the pairs
    ({}, None),
    ({"answers": ("bot",)}, [("Q", "A"), ("N", "B")]),
    ({"asks": ("web*",)}, [("Q", "A\nN\nB")]),
    ({"asks": ("web*",), "answers": ("bot",)}, [("Q", "A\nB")]),
    ({"asks": ("nobody",)}, None),
]


@pytest.mark.parametrize(("speakers", "expected"), ROLES)
def test_roles_that_are_not_named_are_on_the_other_side_or_left_out(
    tmp_path: Path, speakers: dict[str, tuple[str, ...]], expected: list[tuple[str, str]] | None
) -> None:
    messages = [("web_42", "Q"), ("bot", "A"), ("note", "N"), ("bot", "B")]
    chat = json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})
    items = read_messages(tmp_path, chat, speakers=speakers)
    assert list_pairs(items) == (expected or [])
    assert all("`speakers`" in i.detail for i in items if isinstance(i, DroppedRow)) and bool(
        list_dropped(items)
    ) != bool(expected)


OFFERS = [  # the greeting of an agent, and a customer's request for help
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
    first, second, third = get_documents(read_transcript(tmp_path, greeted))
    assert (first.text, second.question, third.question) == (offer, request_, "Then?")
    begun = f"Jonas: {request_}\nMaria: {offer}\nJonas: Then?\nMaria: The rest."
    assert [question for question, _ in list_pairs(read_transcript(tmp_path, begun))] == [request_, "Then?"]
    # the one who asks comes second and asks for help only
    late = f"Maria: Welcome. {offer}\nJonas: Hello.\nMaria: Yes.\nJonas: {request_}\nMaria: Gladly."
    assert get_documents(read_transcript(tmp_path, late))[-1].question == request_


def test_earlier_turns_are_the_context_the_newest_of_them(tmp_path: Path) -> None:
    text = "# context: Tents.\nAnna: Do you have it?\nMaria: Yes, we do.\nAnna: And in blue?\nMaria: No, only in red."
    first, second = get_documents(read_transcript(tmp_path, text))
    assert (first.question, first.context) == ("Do you have it?", "Tents.")
    assert (second.question, second.answer) == ("And in blue?", "No, only in red.")
    assert second.context == "Tents.\nCustomer: Do you have it?\nAgent: Yes, we do."
    long = "\n".join(f"Customer: Question {n}?\nAgent: {'word ' * 30}{n}." for n in range(20))
    items = get_documents(read_transcript(tmp_path, long))
    assert all(len(i.context) <= 700 for i in items) and items[-1].context.endswith("word 18.")


@given(st.text("Aa:：1[] \n?-#", max_size=200))
def test_no_line_is_lost(text: str) -> None:
    with TemporaryDirectory() as folder:
        items = read_transcript(Path(folder), text)
    kept = "".join(i.question + i.answer + i.text if isinstance(i, Document) else i.content for i in items if i)
    for line in text.split("\n"):
        if not line.strip().startswith(("#", "-")):
            message = re.split("[:：]", line)[-1]
            assert "".join(re.findall(r"[Aa1?]", message)) in "".join(re.findall(r"[Aa1?]", kept))


@pytest.mark.parametrize(
    ("chat", "positions", "answer"),
    [
        (
            "1/3/26, 9:05 AM - Anna: Is it new?\n1/3/26, 11:15 PM - Tom joined\n1/3/26, 9:06 AM - Shop: Yes,\n10:30.",
            ["line 2"],
            "Yes,\n10:30.",
        ),
        (  # a bare time is known by its order
            "10:30 Anna: Is it new?\n10:31 Tom joined\n10:31 Shop: Yes,\n10:29 it is.\n10:45 Tom left",
            ["line 2", "line 5"],
            "Yes,\n10:29 it is.",
        ),
    ],
)
def test_a_line_of_nobody_is_no_part_of_a_turn(tmp_path: Path, chat: str, positions: list[str], answer: str) -> None:
    items = read_transcript(tmp_path, chat)
    assert list_dropped(items) == [("malformed", position) for position in positions]
    assert list_pairs(items) == [("Is it new?", answer)]


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
    items = get_documents(read_messages(tmp_path, json.dumps({"topic": "t", "context": "c", "messages": messages})))
    assert [(i.question, i.answer, i.context, i.group, i.position) for i in items] == [
        ("Q1", "A1", "c", "t", "line 1, message 2"),
        ("Q2", "A2", "c\nCustomer 1: Q1\nAgent: A1", "t", "line 1, message 4"),
    ]


def test_the_format_of_a_gzipped_log_follows_the_name_before_gz(tmp_path: Path) -> None:
    (tmp_path / "kept elsewhere").write_bytes(gzip.compress(MESSAGES.encode()))
    origin = Origin(Source(name="s", kind="chat", location="x"), "x.jsonl.gz")
    assert list_pairs(chat_turns.read(tmp_path / "kept elsewhere", origin)) == [("Q", "A")]


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
    lines = [before + line for line in ("All is encrypted", "Anna: Is it new?", "Luis: Yes, by May 3, 2026.")]
    lines += [noon + line for line in ("Anna: When?", "Luis: Now.", "Leo joined")]
    items = read_transcript(tmp_path, "\n".join(lines))
    assert list_pairs(items) == [("Is it new?", "Yes, by May 3, 2026."), ("When?", "Now.")]
    assert sorted(list_dropped(items)) == [("malformed", "line 1"), ("malformed", "line 6")]


@pytest.mark.parametrize(
    "more", ["# install it\npip install x", "---\nThen restart it and wait.", "```\n# 1\nname: b\n---\nc: d\n```"]
)
def test_rules_and_comments_within_an_answer_are_text(tmp_path: Path, more: str) -> None:
    chat = f"Anna: How do I install it?\nMaria: Run this:\n{more}\nAnna: Is it free?\nMaria: Yes."
    expected = [("How do I install it?", f"Run this:\n{more}"), ("Is it free?", "Yes.")]
    assert list_pairs(read_transcript(tmp_path, chat)) == expected


@pytest.mark.parametrize("unit", ["* ", "_", " ", "a ", "[10:32 ", "#", "(", "1:"])
@pytest.mark.parametrize("start", ["", "a", "[10:32] "])
def test_a_long_hostile_line_costs_linear_time(start: str, unit: str) -> None:
    assert_linear(lambda text: parse_transcript_line(1, start + text), unit)
    assert_linear(is_sentence, unit)


def test_a_label_ends_in_the_first_characters_of_a_line() -> None:
    line = parse_transcript_line(1, " " * (HEAD_CHARS - 5) + "Anna: " + "long " * 999)
    assert (line.label, line.message) == ("anna", ("long " * 999).strip())
    assert not parse_transcript_line(1, " " * HEAD_CHARS + "Anna: a message").label
