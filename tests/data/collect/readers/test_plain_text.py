"""Plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.collect.readers import plain_text
from llmops.data.collect.readers.origin import Origin
from llmops.records import Document, Dropped


def read(tmp_path: Path, text: str) -> list[Document | Dropped | None]:
    (tmp_path / "x").write_text(text, encoding="utf-8")
    return list(plain_text.read(tmp_path / "x", Origin(Source(name="s", kind="text", location="x"), "x")))


def test_a_short_file_is_one_document(tmp_path: Path) -> None:
    (item,) = read(tmp_path, "\n\n# no heading\n\n  indented\nend\n\n")
    assert isinstance(item, Document)
    assert (item.position, item.text) == ("line 3", "# no heading\n\n  indented\nend")


def test_a_long_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "PART", 20)
    text = "\n\n".join(f"paragraph {n}\nof two lines" for n in range(6)) + "\n" + "no blank line\n" * 9
    items = [i for i in read(tmp_path, text) if isinstance(i, Document)]
    assert "".join(i.text for i in items).replace("\n", "") == text.replace("\n", "")
    assert all(len(i.text) < 60 for i in items) and len(items) > 5
    lines = text.split("\n")
    assert all(lines[int(i.position.removeprefix("line ")) - 1] == i.text.split("\n")[0] for i in items)


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_file_is_quarantined(tmp_path: Path, text: str) -> None:
    assert [i.rule for i in read(tmp_path, text) if isinstance(i, Dropped)] == ["empty"]
