"""CSV: good rows are read, each bad one is named."""

import csv
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.collect.readers import csv_rows
from llmops.frame.records import Document, DroppedRow
from tests.data.collect.readers.reading import get_document, get_documents, list_pairs, read_file
from tests.growth import assert_linear

QA = {"question": "q", "answer": "a"}


def read_rows(tmp_path: Path, data: bytes, **source: object) -> tuple[list[Document], list[DroppedRow]]:
    items = read_file("csv", tmp_path, data, **source)
    return get_documents(items), [item for item in items if isinstance(item, DroppedRow)]


def test_rows_without_a_question_keep_all_their_fields(tmp_path: Path) -> None:
    item = get_document(read_file("csv", tmp_path, "name,price,note\nTent,9,\n"))
    assert json.loads(item.fields) == {"name": "Tent", "price": "9", "note": ""}
    assert (item.text, item.question) == ("name: Tent\nprice: 9", "")


def test_ids_are_stable_and_unique(tmp_path: Path) -> None:
    first, second = ([d.id for d in read_rows(tmp_path, b"q,a\n1,2\n1,2\n", fields=QA)[0]] for _ in range(2))
    assert first == second and len(set(first)) == 2


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        ("question, please;answer\nhow, when, why;so\n", ";"),
        ("q\ta\nYes, of course, sir;\tok\n", "\t"),
        ("q|a\n1|2,3,4\n5|6\n", "|"),
        ("q,a\r1,2\r3,4\r", ","),  # old line ends
    ],
)
def test_the_delimiter_is_the_one_that_cuts_all_rows_alike(tmp_path: Path, data: str, delimiter: str) -> None:
    assert csv_rows.detect_delimiter(data.splitlines(keepends=True)) == delimiter
    rows = [row for row in csv.DictReader(data.splitlines(keepends=True), delimiter=delimiter) if None not in row]
    assert [json.loads(document.fields) for document in read_rows(tmp_path, data.encode())[0]] == rows


def test_every_broken_quote_costs_its_line_and_no_more(tmp_path: Path) -> None:
    good, bad = ([f"{quote}{n},{n}" for n in range(300)] for quote in ("", '"'))
    rows = "\n".join(row for pair in zip(good, bad, strict=True) for row in pair)
    found, dropped = read_rows(tmp_path, f"q,a\n{rows}\n".encode(), fields=QA)
    assert [d.question for d in found] == [str(n) for n in range(300)]
    assert [d.content.strip() for d in dropped] == bad


@pytest.mark.parametrize(("data", "good"), [(b'"open,1\n' + b"2,3\n" * 2000, 2000), (b"x,y" * 900 + b"\n2,3\n", 1)])
def test_quotes_and_lines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, good: int) -> None:
    monkeypatch.setattr(csv_rows, "LARGEST_RECORD", 1000)
    documents, dropped = read_rows(tmp_path, b"q,a\n" + data)
    assert (len(documents), [(d.rule, d.position) for d in dropped]) == (good, [("malformed", "row 2")])


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(',;"\n'), min_size=1)


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("q", "a"), *rows])
    with TemporaryDirectory() as folder:
        found = list_pairs(read_file("csv", Path(folder), written.getvalue(), fields=QA))
    assert found == [(q.strip(), a.strip()) for q, a in rows if (q + a).strip()]


def test_many_columns_cost_no_more_than_linear_time(tmp_path: Path) -> None:
    def read_columns(text: str) -> None:
        assert not read_file("csv", tmp_path, ",".join(f"column {number}" for number in range(len(text))))

    assert_linear(read_columns, "x", 20_000)
