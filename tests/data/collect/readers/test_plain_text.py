"""Plain text."""

from functools import partial
from pathlib import Path

import pytest

from llmops.data.collect.readers import plain_text
from tests.data.collect.readers.reading import get_document, get_documents, read_file

read_text = partial(read_file, "text")


def test_a_short_file_is_one_document(tmp_path: Path) -> None:
    item = get_document(read_text(tmp_path, "\n\n# no heading\n\n  indented\nend\n\n"))
    assert (item.position, item.text) == ("line 3", "# no heading\n\n  indented\nend")


def test_a_long_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "PART_CHARS", 20)
    text = "\n\n".join(f"paragraph {n}\nof two lines" for n in range(6)) + "\n" + "no blank line\n" * 9
    items = get_documents(read_text(tmp_path, text))
    assert "".join(i.text for i in items).replace("\n", "") == text.replace("\n", "")
    assert all(len(i.text) < 60 for i in items) and len(items) > 5
    lines = text.split("\n")
    assert all(lines[int(i.position.removeprefix("line ")) - 1] == i.text.split("\n")[0] for i in items)


def test_a_long_file_is_cut_before_questions_under_headings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "PART_CHARS", 60)
    text = (
        "Chapter\u00a01.\u00a0Tents\n\n1.1. Who\nwashes them?\n\nWe do, in our workshop.\n\nTwice a year.\n\n"
        "1.2. Who pays?\n\nYou do, as a rule.\n\nWe, if it broke.\n\nChapter 2. Lamps\n\nMany.\n\n"
        f"2.1. Which are new?\n\nThis one.\n\n{'And more about it, '.strip() * 12}\n\nThe end."
    )
    items = get_documents(read_text(tmp_path, text))
    assert [i.text.split("\n\n")[:3] for i in items] == [
        ["Chapter\u00a01.\u00a0Tents", "1.1. Who\nwashes them?", "We do, in our workshop."],
        ["Chapter 1. Tents", "1.2. Who pays?", "You do, as a rule."],
        ["Chapter 2. Lamps", "2.1. Which are new?", "This one."],
        ["Chapter 2. Lamps", "The end."],
    ]
    lines = text.split("\n")
    assert [lines[int(i.position.removeprefix("line ")) - 1] for i in items[1:]] == [
        "1.2. Who pays?", "2.1. Which are new?", "The end.",
    ]  # fmt: skip
