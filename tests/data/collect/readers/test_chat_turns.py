"""Chat transcripts and messages."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.collect.readers import chat_turns
from llmops.data.collect.readers.origin import Origin
from llmops.records import Document, Dropped

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


def read(tmp_path: Path, name: str, text: str) -> list[Document | Dropped | None]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return list(chat_turns.read(tmp_path / name, Origin(Source(name="s", kind="chat", location=name), name)))


def test_each_turn_pair_of_a_transcript_is_a_document(tmp_path: Path) -> None:
    items = [i for i in read(tmp_path, "x.txt", TRANSCRIPT) if isinstance(i, Document)]
    assert [(i.group, i.context, i.question, i.answer, i.text) for i in items] == [
        ("returns", "", "", "", "Hello!"),
        ("returns", "Policy: 30 days.", "Can I send it back? It is a tent.", "Yes.\nWithin 30 days.", ""),
        ("returns", "", "Thanks", "", ""),
        ("", "", "No topic?", "None.", ""),
        ("shipping", "", "How long?", "Three days: at most.", ""),
        ("", "", "Topic gone?", "Yes.", ""),
    ]
    assert items[1].position == "line 4"


def test_a_line_without_a_speaker_is_quarantined(tmp_path: Path) -> None:
    bad, good = read(tmp_path, "x.txt", "Ticket 12, 3 January\nCustomer: Q?\nAgent: A.")
    assert isinstance(bad, Dropped) and (bad.rule, bad.position) == ("malformed", "line 1")
    assert isinstance(good, Document) and good.answer == "A."


def test_messages(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": [{"type": "text", "text": "A1"}, {"type": "image_url"}]},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "A2"},
    ]
    items = read(tmp_path, "x.jsonl", json.dumps({"topic": "t", "context": "c", "messages": messages}))
    assert [(i.question, i.answer, i.context, i.group, i.position) for i in items if isinstance(i, Document)] == [
        ("Q1", "A1", "c", "t", "line 1, message 2"),
        ("Q2", "A2", "c", "t", "line 1, message 4"),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        '{"messages": [',
        "[]",
        "{}",
        '{"messages": []}',
        '{"messages": ["x"]}',
        '{"messages": [{"content": "x"}]}',
        '{"messages": [{"role": "alien", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": 5}]}',
    ],
)
def test_a_malformed_conversation_costs_its_line(tmp_path: Path, bad: str) -> None:
    good = '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}'
    first, second = read(tmp_path, "x.jsonl", f"{bad}\n{good}")
    assert isinstance(first, Dropped) and (first.rule, first.position) == ("malformed", "line 1")
    assert isinstance(second, Document)


@pytest.mark.parametrize(
    "messages",
    [[{"role": "system", "content": "Be kind."}], [{"role": "user", "content": ""}]],
    ids=["system", "blank"],
)
def test_a_conversation_in_which_nobody_speaks_is_quarantined(tmp_path: Path, messages: list[dict[str, str]]) -> None:
    (item,) = read(tmp_path, "x.jsonl", json.dumps({"messages": messages}))
    assert isinstance(item, Dropped) and (item.rule, item.position) == ("malformed", "line 1")


@pytest.mark.parametrize(("name", "text"), [("x.jsonl.gz", MESSAGES), ("x.txt.gz", "Customer: Q\nAgent: A")])
def test_gzipped_logs_are_told_by_the_name_before_gz(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "kept elsewhere").write_bytes(gzip.compress(text.encode()))
    items = list(
        chat_turns.read(tmp_path / "kept elsewhere", Origin(Source(name="s", kind="chat", location="x"), name))
    )
    assert [(i.question, i.answer) for i in items if isinstance(i, Document)] == [("Q", "A")]


def test_a_number_sign_alone_begins_no_header(tmp_path: Path) -> None:
    (item,) = read(tmp_path, "x.txt", "Customer: My order is\n#1234, where is it?\nAgent: On its way.")
    assert isinstance(item, Document) and item.question == "My order is #1234, where is it?"


@pytest.mark.parametrize("text", ["", " \n", "# topic: only\n---\n"])
def test_a_file_without_conversation_is_named(tmp_path: Path, text: str) -> None:
    assert [i.rule for i in read(tmp_path, "x.txt", text) if isinstance(i, Dropped)] == ["empty"]
