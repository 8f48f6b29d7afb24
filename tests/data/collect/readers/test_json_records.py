"""JSON and JSON Lines."""

import json
from functools import partial
from pathlib import Path

import pytest

from llmops.data.collect.readers.origin import flatten_record
from llmops.frame.records import DroppedRow
from tests.data.collect.readers.reading import get_document, list_dropped, read_file
from tests.growth import assert_linear

read_json = partial(read_file, "json")
read_jsonl = partial(read_file, "jsonl")


def test_nested_fields_and_records_path(tmp_path: Path) -> None:
    more = [{"y": None}, {"y": "second"}]
    value = {"data": {"items": [{"q": "Q", "a": {"text": "A"}, "tags": ["x", 1], "more": more, "on": True}]}}
    fields = {"question": "q", "answer": "a.text", "context": "more.1.y"}
    document = get_document(read_json(tmp_path, json.dumps(value), records="data/items", fields=fields))
    assert (document.question, document.answer, document.context, document.fields) == ("Q", "A", "second", "{}")
    document = get_document(read_json(tmp_path, json.dumps(value), records="data.items"))
    flat = {"q": "Q", "a.text": "A", "tags": "x, 1", "more.0.y": "", "more.1.y": "second", "on": "true"}
    assert json.loads(document.fields) == flat


BROKEN = '{"shop": "x", "data": {"items": [{"q": "1"}, {"q": "2"}, {"q": "3'


def test_a_file_cut_anywhere_is_quarantined_whole_with_the_place_of_the_break(tmp_path: Path) -> None:
    for text in (BROKEN[:cut] for cut in range(5, len(BROKEN))):
        (item,) = read_json(tmp_path, text, records="data/items")
        assert isinstance(item, DroppedRow) and (item.rule, item.position) == ("malformed", "line 1")
        assert item.detail.startswith("line 1, column ")


@pytest.mark.parametrize("depth", [50, 900, 990, 5000])
def test_any_depth_is_read_or_named(tmp_path: Path, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    (item,) = read_json(tmp_path, f"[{deep}]")
    assert item is not None
    assert len(read_jsonl(tmp_path, f'{deep}\n{{"q": "1"}}')) == 2


def test_two_values_that_come_to_have_one_name_are_both_kept() -> None:
    assert flatten_record({"a.b": 1, "a": {"b": 2}}) == {"a.b": "1", "a.b (2)": "2"}
    assert flatten_record({"a": {"b": 2}, "a.b": 1, "a.b (2)": 3}) == {"a.b": "2", "a.b (2)": "1", "a.b (2) (2)": "3"}
    assert flatten_record({"a": [{"b": 1}], "a.0.b": [2, 3]}) == {"a.0.b": "1", "a.0.b (2)": "2, 3"}


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_numbers_read_as_they_are_written_and_missing_values_are_empty(tmp_path: Path, kind: str) -> None:
    row = '{"price": 10.50, "all": [1.0, 2E3], "id": 12345678901234567890, "more": {"x": -0.10}, "none": NaN, "b": 0, '
    item = get_document(read_file(kind, tmp_path, row + '"c": false, "d": null}'))
    written = {"price": "10.50", "all": "1.0, 2E3", "id": "12345678901234567890", "more.x": "-0.10"}
    assert json.loads(item.fields) == {**written, "none": "", "b": "0", "c": "false", "d": ""}
    (bad,) = read_file(kind, tmp_path, "1.50")
    assert isinstance(bad, DroppedRow) and bad.detail.startswith("a float where")


def test_a_name_twice_among_many_costs_linear_time(tmp_path: Path) -> None:
    def read_names(text: str) -> None:
        names = [*range(len(text)), len(text) - 1]
        data = "{" + ", ".join(f'"{name}": 1' for name in names) + "}\n"
        assert list_dropped(read_file("jsonl", tmp_path, data)) == [("malformed", "line 1")]

    assert_linear(read_names, "x", 20_000)
