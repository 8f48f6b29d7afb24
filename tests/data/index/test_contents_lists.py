"""Which passages are tables of contents."""

from pathlib import Path

import pytest

from llmops.data.index.contents_lists import is_table_of_contents, read_titles
from llmops.frame.records import Document, write_rows

TITLES = ("getting started", "how do i install it", "licence", "printing", "users and groups")
LIST = (
    "- 1. Getting started\n- 1.1. How do I install it?\n- 2. Printing .......... 12\n- 3. Users and groups\n4. Licence"
)


@pytest.mark.parametrize(
    ("headings", "text", "expected"),
    [
        ("Guide", LIST, True),
        ("Guide", f"This guide is short.\n{LIST}", True),
        ("Guide", "Licence\nPrinting", False),
        ("Guide", "Licence\n" * 5, False),
        ("Guide", f"{LIST}\n{'It says a lot about the machine besides. ' * 5}", False),
        ("Guide › Printing › Licence", "Licence\nPrinting\nGetting started\nUsers and groups", False),
        ("Guide", "Getting started takes an hour.\nPrinting costs.\nA licence is needed.\nUsers wait.", False),
    ],
)
def test_mostly_titles_of_other_documents_are_a_table_of_contents(headings: str, text: str, expected: bool) -> None:
    assert is_table_of_contents(headings, text, TITLES) == expected


def test_titles_are_headings_and_questions_of_all_documents(tmp_path: Path) -> None:
    place = {"source": "help", "location": "a.html", "position": "1"}
    documents = [
        Document(id="a", context="Guide › 1.2. Getting started", text="Go.", **place),
        Document(id="b", question="How do I install it?", answer="Click.", **place),
    ]
    write_rows(tmp_path / "part-0.parquet", documents, Document)
    assert read_titles(tmp_path) == {"guide", "getting started", "how do i install it"}
