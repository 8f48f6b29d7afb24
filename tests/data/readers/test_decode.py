"""Which encoding a file is in."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.readers.decode import detect, read_text
from llmops.data.readers.origin import Origin, printable, undecodable
from llmops.errors import SourceError

LONG = "How?,Like this it goes on and on\n" * 20


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain", "utf-8"),
        ("naïve", "utf-8"),
        ("naïve", "utf-8-sig"),
        ("naïve", "utf-16"),
        ("q,a\nPrice?,It costs £5\n" + LONG, "cp1252"),
        ("Müller,Köln\nJosé,Málaga\n", "cp1252"),
        ("Jak długo trwa dostawa?,Zamówienie dotrze w ciągu trzech dni, także w święta.\n" * 3, "cp1250"),
        ("где,Доставка занимает три дня в Москву\n" * 3, "cp1251"),
    ],
)
def test_detected_text_is_the_text_that_was_written(text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert data.decode(detect(data)) == text


def test_a_few_bad_lines_do_not_change_the_encoding_of_the_others() -> None:
    assert detect("é\n".encode() + b"\xe9\n") == "utf-8"


def test_a_guess_is_logged_with_file_and_encoding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "x").write_bytes("Müller,Köln\n".encode("cp1252"))
    with caplog.at_level(logging.WARNING):
        read_text(tmp_path / "x", Origin(Source(name="src", kind="text", location="x"), "in/x"))
    assert "in/x" in caplog.text and "cp1252" in caplog.text


def test_an_encoding_that_cannot_read_the_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"odd")
    with pytest.raises(SourceError, match="x is not utf-16"):
        read_text(tmp_path / "x", Origin(Source(name="src", kind="text", location="x", encoding="utf-16"), "x"))


def test_what_cannot_be_stored_is_found_and_printed() -> None:
    text = b"a\xe9".decode("utf-8", "surrogateescape")
    assert "0xE9 at character 2" in undecodable(text, "utf-8")
    assert "U+D83D" in undecodable("\ud83d", "")
    assert undecodable("\U0001f600é", "utf-8") == ""
    assert printable(text) == "a\\xe9"
    assert printable("\ud83d").isascii()
