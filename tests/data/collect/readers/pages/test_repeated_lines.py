"""Removal of lines that the pages of one source share at their edges."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from llmops.data.collect.readers.pages import repeated_lines
from tests.data.collect.readers.reading import read_file

NAMES = ("position", "rule", "detail", "content", "question", "answer", "text")


def make_extract(tmp_path: Path, page: str) -> list[pa.RecordBatch]:
    rows = [{name: getattr(item, name, "") for name in NAMES} for item in read_file("html", tmp_path, page)]
    return [pa.RecordBatch.from_pylist([row]) for row in rows]


def remove_repeated(tmp_path: Path, pages: Iterable[str]) -> list[list[tuple[str, ...]]]:
    extracts = [make_extract(tmp_path, page) for page in pages]
    repeated = repeated_lines.find_repeated_lines(extracts)
    pages_left = [
        [row for batch in repeated_lines.remove_lines(page, repeated) for row in batch.to_pylist()] for page in extracts
    ]
    return [
        [(r["rule"] or r["position"], r["question"], r["answer"] or r["text"]) for r in page] for page in pages_left
    ]


def test_lines_at_the_edge_of_most_pages_are_left_out(tmp_path: Path) -> None:
    page = "<p>Free delivery!</p><p>Page {0}.</p><h2>Q{0}?</h2><p>A{0}.</p><p>Was it useful?</p><p>Tell us.</p>"
    assert remove_repeated(tmp_path, [page.format(n) for n in range(4)]) == [
        [("section 1", "", f"Page {n}."), ("section 2", f"Q{n}?", f"A{n}.")] for n in range(4)
    ]


def test_a_document_of_nothing_else_is_quarantined_and_a_page_once(tmp_path: Path) -> None:
    pages = [f"<p>Free delivery!</p><h2>Q{n}?</h2><p>A{n}.</p>" for n in range(3)]
    for n, rows in enumerate(remove_repeated(tmp_path, pages)):
        assert rows == [("boilerplate", "", "Free delivery!"), ("section 2", f"Q{n}?", f"A{n}.")]
    assert remove_repeated(tmp_path, ["<p>Free!</p><p>Now!</p>"] * 3) == [[("boilerplate", "", "Free!\nNow!")]] * 3


def test_what_repeats_within_pages_or_on_few_of_them_stays(tmp_path: Path) -> None:
    inner = [f"<h2>Q{n}?</h2><p>Yes.</p><p>Only {n}.</p><h2>R{n}?</h2><p>{n}.</p>" for n in range(4)]
    same = [f"<h2>Q{n}?</h2><p>A{n}.</p><h2>Phone?</h2><p>Call us.</p>" for n in range(4)]
    few = [f"<h2>Q{n}?</h2><p>A{n}.</p>" + "<p>Call us.</p>" * (n < 3) for n in range(7)]
    assert [rows[0][2] for rows in remove_repeated(tmp_path, inner)] == [f"Yes.\nOnly {n}." for n in range(4)]
    assert all(rows[1] == ("section 2", "Phone?", "Call us.") for rows in remove_repeated(tmp_path, same))
    assert remove_repeated(tmp_path, few)[0][0][2] == "A0.\nCall us."
    assert remove_repeated(tmp_path, few[:2])[0][0][2] == "A0.\nCall us."
