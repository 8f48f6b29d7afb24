"""Which encoding a file is in."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from llmops.config import Source
from llmops.data.collect.readers import decode
from llmops.data.collect.readers.decode import Unreadable, detect, lines, open_text, read_text
from llmops.data.collect.readers.origin import Origin, printable, undecodable

ORIGIN = Origin(Source(name="src", kind="text", location="x"), "x")
LONG = "How?,Like this it goes on and on\n" * 20


def file(tmp_path: Path, data: bytes) -> io.BufferedReader:
    (tmp_path / "x").write_bytes(data)
    return open(tmp_path / "x", "rb")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("naïve", "utf-8"),
        ("naïve", "utf-8-sig"),
        ("naïve", "utf-16"),
        ("Question,Answer\nCafé,Yes\n", "utf-16-le"),
        ("Question,Answer\nCafé,Yes\n", "utf-16-be"),
        ("q,a\nPrice?,It costs £5\n" + LONG, "cp1252"),
        ("Müller,Köln\nJosé,Málaga\n", "cp1252"),
        ("Jak długo trwa dostawa?,Zamówienie dotrze w ciągu trzech dni, także w święta.\n" * 3, "cp1250"),
        ("где,Доставка занимает три дня в Москву\n" * 3, "cp1251"),
    ],
)
def test_detected_text_is_the_text_that_was_written(tmp_path: Path, text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert data.decode(detect(file(tmp_path, data))).removeprefix("\ufeff") == text


def test_most_lines_decide_wherever_they_stand(tmp_path: Path) -> None:
    good, bad, plain = "déjà vu\n".encode(), "Müller, Köln\n".encode("cp1252"), b"plain\n" * 100_000
    assert detect(file(tmp_path, good + bad)) == "utf-8"
    assert detect(file(tmp_path, good + bad * 3)) == "cp1252"
    assert detect(file(tmp_path, plain + bad)) == "cp1252"
    assert detect(file(tmp_path, plain + good)) == "utf-8"


def test_what_cannot_be_stored_is_found_and_printed() -> None:
    text = b"a\xe9".decode("utf-8", "surrogateescape")
    assert "0xE9 at character 2" in undecodable(text, "utf-8")
    assert "U+D83D" in undecodable("\ud83d", "")
    assert undecodable("\U0001f600é", "utf-8") == ""
    assert printable(text) == "a\\xe9"
    assert printable("\ud83d").isascii()


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04...", b"%PDF-1.7 ...", b"PAR1...", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"a\0b\0\0c"]
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Unreadable):
        detect(file(tmp_path, data))


def test_gzip_is_told_by_its_content_and_a_mark_at_the_start_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress("\ufeffnaïve\r\nlines\n".encode()))
    origin = Origin(Source(name="src", kind="text", location="x", encoding="utf-8"), "x")
    assert read_text(tmp_path / "x", origin, 99, "split it")[0] == "naïve\nlines\n"
    assert read_text(tmp_path / "x", ORIGIN, 99, "split it")[0] == "naïve\nlines\n"


def test_the_lines_before_the_break_of_a_gzip_file_are_read(tmp_path: Path) -> None:
    data = gzip.compress("".join(f"line {n * n * 7919}\n" for n in range(20_000)).encode())
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    got = 0
    with pytest.raises(Unreadable, match="gzip"), open_text(tmp_path / "x", ORIGIN) as (text, _):
        for _line in lines(text):
            got += 1
    assert 1000 < got < 20_000


def test_an_endless_line_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "LARGEST", 10)
    got = list(lines(io.StringIO("short\n" + "x" * 35 + "\n" + "y" * 21 + "\nlast")))
    assert got == ["short\n", "x" * 11, "y" * 11, "last"]
