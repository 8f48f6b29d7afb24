"""JSON and JSON Lines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.config import Source
from llmops.data.collect.readers import json_records
from llmops.data.collect.readers.origin import Origin, flatten
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
    assert json.loads(document.fields) == {**{"q": "Q", "a.text": "A", "tags": "x, 1", "more.0.y": "", "on": "true"}}


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


BROKEN = '{"shop": "x", "data": {"items": [{"q": "1"}, {"q": "2"}, {"q": "3'


@pytest.mark.parametrize("cut", range(5, len(BROKEN)))
def test_a_file_cut_anywhere_gives_what_precedes_and_names_the_break(tmp_path: Path, cut: int) -> None:
    text = BROKEN[:cut]
    items = read(tmp_path, text, records="data/items")
    whole = text.count("}")
    assert seen(items) == [("ok", f"record {n}") for n in range(1, whole + 1)] + [("malformed", "line 1")]


@pytest.mark.parametrize(
    ("text", "whole"),
    [('[{"q": "1"}] trailing', 1), ('[{"q": "1"},]', 1), ('[{"q": "1"} {"q": "2"}]', 1), ('{"q": "1"}\n{"q": "2"}', 1)],
)
def test_what_follows_a_break_is_not_lost_silently(tmp_path: Path, text: str, whole: int) -> None:
    items = read(tmp_path, text)
    assert [rule for rule, _ in seen(items)] == ["ok"] * whole + ["malformed"]


def test_records_one_a_line_are_told_from_a_list(tmp_path: Path) -> None:
    bad = read(tmp_path, '{"q": "1"}\n{"q": "2"}')[-1]
    assert isinstance(bad, Dropped) and "jsonl" in bad.detail


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_two_values_of_one_name_cost_the_record(tmp_path: Path, kind: str) -> None:
    rows = ['{"q": "1"}', '{"q": "2", "a": {"x": 1, "x": 2}}', '{"q": "3"}']
    items = read(tmp_path, "[" + ",".join(rows) + "]" if kind == "json" else "\n".join(rows), kind)
    assert [rule for rule, _ in seen(items)] == ["ok", "malformed", "ok"]
    assert isinstance(items[1], Dropped) and "'x'" in items[1].detail


def test_nothing_after_the_records_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, '{"items": [{"q": "1"}], "more": oops', records="items")) == 1


@pytest.mark.parametrize("depth", [50, 300, 900, 990, 5000])
def test_any_depth_is_read_or_named(tmp_path: Path, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    (item,) = read(tmp_path, f"[{deep}]")
    assert item is not None
    assert len(read(tmp_path, f'{deep}\n{{"q": "1"}}', "jsonl")) == 2


def test_missing_values_are_empty(tmp_path: Path) -> None:
    (item,) = read(tmp_path, '{"q": NaN, "a": null, "b": 0, "c": false}', "jsonl")
    assert isinstance(item, Document) and json.loads(item.fields) == {"q": "", "a": "", "b": "0", "c": "false"}


def test_items_of_a_list_are_numbered(tmp_path: Path) -> None:
    text = '{"q": "Q", "answers": [{"text": "first"}, {"text": "second"}]}'
    (item,) = read(tmp_path, text, "jsonl", fields={"question": "q", "answer": "answers.1.text"})
    assert isinstance(item, Document) and item.answer == "second"


def test_two_values_that_come_to_have_one_name_are_both_kept() -> None:
    assert flatten({"a.b": 1, "a": {"b": 2}}) == {"a.b": "1", "a.b (2)": "2"}
    assert flatten({"a": {"b": 2}, "a.b": 1, "a.b (2)": 3}) == {"a.b": "2", "a.b (2)": "1", "a.b (2) (2)": "3"}
    assert flatten({"a": [{"b": 1}], "a.0.b": [2, 3]}) == {"a.0.b": "1", "a.0.b (2)": "2, 3"}


NAMES = st.text("a.0", min_size=1, max_size=4)
NESTED = st.recursive(
    st.integers(0, 9), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


def leaves(value: object) -> list[str]:
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in leaves(inner)]
    return [str(value)]


@given(st.dictionaries(NAMES, NESTED, max_size=4))
def test_flattening_loses_no_value(record: dict[str, object]) -> None:
    assert Counter(", ".join(flatten(record).values()).replace(", ", "")) == Counter("".join(leaves(record)))


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_numbers_read_as_they_are_written(tmp_path: Path, kind: str) -> None:
    row = '{"price": 10.50, "all": [1.0, 2E3], "id": 12345678901234567890, "more": {"x": -0.10}, "none": NaN}'
    (item,) = read(tmp_path, row, kind)
    assert isinstance(item, Document)
    written = {"price": "10.50", "all": "1.0, 2E3", "id": "12345678901234567890", "more.x": "-0.10", "none": ""}
    assert json.loads(item.fields) == written
    (item,) = read(tmp_path, "1.50", kind)
    assert isinstance(item, Dropped) and item.detail.startswith("a float where")
