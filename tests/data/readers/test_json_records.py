"""JSON and JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.readers import json_records
from llmops.data.readers.origin import Origin
from llmops.errors import SourceError
from llmops.records import Document, Dropped


def read(tmp_path: Path, text: str, kind: str = "json", **source: object) -> list[Document | Dropped | None]:
    (tmp_path / "x").write_text(text, encoding="utf-8")
    origin = Origin(Source(name="src", kind=kind, location="x", **source), "x")
    reader = json_records.read if kind == "json" else json_records.read_lines
    return list(reader(tmp_path / "x", origin))


def seen(items: list[Document | Dropped | None]) -> list[tuple[str, str]]:
    return [(i.rule if isinstance(i, Dropped) else "ok", i.position) for i in items if i]


def test_nested_fields_and_records_path(tmp_path: Path) -> None:
    value = {"data": {"items": [{"q": "Q", "a": {"text": "A"}, "tags": ["x", 1], "more": [{"y": None}], "on": True}]}}
    fields = {"question": "q", "answer": "a.text"}
    (document,) = read(tmp_path, json.dumps(value), records="data/items", fields=fields)
    assert isinstance(document, Document)
    assert (document.question, document.answer, document.fields) == ("Q", "A", "{}")
    (document,) = read(tmp_path, json.dumps(value), records="data.items")
    assert isinstance(document, Document)
    assert json.loads(document.fields) == {
        **{"q": "Q", "a.text": "A", "tags": "x, 1", "more": '[{"y": null}]', "on": "true"}
    }


def test_a_malformed_line_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    items = read(tmp_path, '{"q": "1"}\n{"q": \n\n[1]\n{"q": "2"}', "jsonl")
    assert seen(items) == [("ok", "line 1"), ("malformed", "line 2"), ("malformed", "line 4"), ("ok", "line 5")]
    assert isinstance(items[1], Dropped) and items[1].content == '{"q": '


def test_the_records_before_a_break_go_on(tmp_path: Path) -> None:
    items = read(tmp_path, '[{"q": "1"}, {"q": "2"},\n {"q": oops}, {"q": "4"}]')
    assert seen(items) == [("ok", "record 1"), ("ok", "record 2"), ("malformed", "line 2")]
    assert isinstance(items[-1], Dropped) and "line 2, column 8" in items[-1].detail


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, '{"a": [1, 2', "[1"])
def test_hopeless_files_are_quarantined(tmp_path: Path, text: str) -> None:
    assert all(isinstance(item, Dropped) for item in read(tmp_path, text))


def test_deep_nesting_costs_its_line(tmp_path: Path) -> None:
    assert seen(read(tmp_path, "[" * 100_000 + '\n{"q": "1"}', "jsonl")) == [("malformed", "line 1"), ("ok", "line 2")]


def test_half_a_character_is_quarantined(tmp_path: Path) -> None:
    assert seen(read(tmp_path, '{"q": "\\ud83d"}\n{"q": "\\ud83d\\ude00"}', "jsonl")) == [
        ("encoding", "line 1"),
        ("ok", "line 2"),
    ]


def test_a_records_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'items'.*reviews"):
        read(tmp_path, '{"reviews": []}', records="items")


def test_a_field_that_no_record_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'frage'.*\bq\b"):
        read(tmp_path, '[{"q": 1}]', fields={"question": "frage"})


def test_a_field_that_some_records_lack_is_empty_there(tmp_path: Path) -> None:
    items = read(tmp_path, '[{"q": "1", "a": "2"}, {"q": "3"}]', fields={"question": "q", "answer": "a"})
    assert [i.answer for i in items if isinstance(i, Document)] == ["2", ""]
