"""CSV: good rows go on, each bad one is named."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.config import Source
from llmops.data.collect.readers import delimited
from llmops.data.collect.readers.origin import Origin
from llmops.errors import SourceError
from llmops.records import Document, Dropped

QA = {"question": "q", "answer": "a"}


def read(tmp_path: Path, data: bytes, **source: object) -> tuple[list[Document], list[Dropped], int]:
    (tmp_path / "x.csv").write_bytes(data)
    origin = Origin(Source(name="src", kind="csv", location="x.csv", **source), "x.csv", "2026-01-31")
    items = list(delimited.read(tmp_path / "x.csv", origin))
    documents = [i for i in items if isinstance(i, Document)]
    dropped = [i for i in items if isinstance(i, Dropped)]
    return documents, dropped, items.count(None)


def test_quoted_values_may_hold_anything(tmp_path: Path) -> None:
    documents, dropped, _ = read(tmp_path, b'q,a\r\n"a, ""b""","one\r\n\r\ntwo"\r\n\r\nlast,row', fields=QA)
    assert [(d.question, d.answer, d.position) for d in documents] == [
        ('a, "b"', "one\r\n\r\ntwo", "row 2"),
        ("last", "row", "row 4"),
    ]
    assert not dropped


def test_ragged_rows_are_quarantined_with_row_and_line(tmp_path: Path) -> None:
    documents, dropped, _ = read(tmp_path, b"q,a\n1,2\n1\n1,2,3\n3,4\n", fields=QA)
    assert [d.question for d in documents] == ["1", "3"]
    assert [(d.rule, d.position, d.content) for d in dropped] == [
        ("malformed", "row 3", "1"),
        ("malformed", "row 4", "1,2,3"),
    ]
    assert "line 3" in dropped[0].detail and dropped[0].location == "x.csv"


@pytest.mark.parametrize("bad", [b'"never closed,2\n', b'"closed" badly,2\n'])
def test_a_broken_quote_costs_one_row(tmp_path: Path, bad: bytes) -> None:
    documents, dropped, _ = read(tmp_path, b"q,a\n1,2\n" + bad + b'3,"4"\n5,6\n', fields=QA)
    assert [d.question for d in documents] == ["1", "3", "5"]
    assert [(d.rule, d.position) for d in dropped] == [("malformed", "row 3")]


def test_bytes_that_do_not_decode_cost_their_row(tmp_path: Path) -> None:
    data = "q,a\ncafé,1\n".encode() + "crème,2\n".encode("cp1252") + "naïve,3\n".encode()
    for settings in ({}, {"encoding": "utf-8"}):
        documents, dropped, _ = read(tmp_path, data, fields=QA, **settings)
        assert [d.question for d in documents] == ["café", "naïve"]
        assert [(d.rule, d.position) for d in dropped] == [("encoding", "row 3")]
        assert "0xE8" in dropped[0].detail and "\\xe8" in dropped[0].content


def test_rows_without_a_question_keep_all_their_fields(tmp_path: Path) -> None:
    documents, _, _ = read(tmp_path, b"name,price,note\nTent,9,\n")
    assert json.loads(documents[0].fields) == {"name": "Tent", "price": "9", "note": ""}
    assert documents[0].text == "name: Tent\nprice: 9"
    assert documents[0].question == ""


def test_where_leaves_rows_out_without_quarantining_them(tmp_path: Path) -> None:
    documents, dropped, left_out = read(tmp_path, b"q,a,ok\n1,2,yes\n3,4,no\n", fields=QA, where={"ok": "yes"})
    assert ([d.question for d in documents], dropped, left_out) == (["1"], [], 1)


@pytest.mark.parametrize("extra", [{"fields": {"question": "frage"}}, {"where": {"frage": "1"}}])
def test_a_column_that_is_not_there_or_twice_is_named(tmp_path: Path, extra: dict[str, object]) -> None:
    with pytest.raises(SourceError, match=r"'frage'.*q, a"):
        read(tmp_path, b"q,a\n1,2\n", **extra)
    with pytest.raises(SourceError, match="'q'"):
        read(tmp_path, b"q,q\n1,2\n")


def test_ids_are_stable_and_unique(tmp_path: Path) -> None:
    once, _, _ = read(tmp_path, b"q,a\n1,2\n1,2\n", fields=QA)
    again, _, _ = read(tmp_path, b"q,a\n1,2\n1,2\n", fields=QA)
    assert [d.id for d in once] == [d.id for d in again]
    assert len({d.id for d in once}) == 2


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        ("question, please;answer\nhow, when, why;so\n", ";"),
        ("q\ta\nYes, of course, sir;\tok\n", "\t"),
        ("question\nhow, when, why\n", ","),
        ("q|a\n1|2,3,4\n5|6\n", "|"),
        ('q;a\n"1\n2,3";4\n', ";"),
        ("q,a\r1,2\r3,4\r", ","),  # old line ends
    ],
)
def test_the_delimiter_is_the_one_that_cuts_all_rows_alike(tmp_path: Path, data: str, delimiter: str) -> None:
    assert delimited.sniff(data.splitlines(keepends=True)) == delimiter
    rows = [row for row in csv.DictReader(data.splitlines(keepends=True), delimiter=delimiter) if None not in row]
    assert [json.loads(document.fields) for document in read(tmp_path, data.encode())[0]] == rows


def test_every_broken_quote_costs_its_line_and_no_more(tmp_path: Path) -> None:
    good, bad = ([f"{quote}{n},{n}" for n in range(300)] for quote in ("", '"'))
    rows = "\n".join(row for pair in zip(good, bad, strict=True) for row in pair)
    documents, dropped, _ = read(tmp_path, f"q,a\n{rows}\n".encode(), fields=QA)
    assert [d.question for d in documents] == [str(n) for n in range(300)]
    assert [d.content.strip() for d in dropped] == bad


@pytest.mark.parametrize(
    ("data", "good", "bad"),
    [
        (b"\n \n", 0, ("empty", "file")),
        (b'q,"a\n1,2\n3,4\n', 0, ("malformed", "row 1")),  # a header that cannot be read
        (b'q,a\n"open,1\n' + b"2,3\n" * 2000, 2000, ("malformed", "row 2")),
        (b"q,a\n" + b"x,y" * 900 + b"\n2,3\n", 1, ("malformed", "row 2")),  # an endless line
    ],
    ids=["empty", "header", "quote", "line"],
)
def test_one_thing_that_is_wrong_costs_no_more_than_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, good: int, bad: tuple[str, str]
) -> None:
    monkeypatch.setattr(delimited, "LARGEST", 1000)
    documents, dropped, _ = read(tmp_path, data)
    assert (len(documents), [(d.rule, d.position) for d in dropped]) == (good, [bad])


@given(
    rows=st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(',;"\n'), min_size=1)] * 2
        ),
        min_size=1,
    )
)
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("q", "a"), *rows])
    source = Source(name="src", kind="csv", location="x.csv", fields=QA)
    got = [(d.question, d.answer) for d in delimited.read(path, Origin(source, "x.csv")) if isinstance(d, Document)]
    assert got == [(q.strip(), a.strip()) for q, a in rows if (q + a).strip()]
