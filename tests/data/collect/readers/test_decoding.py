"""Detection of a file's encoding."""

import io
from pathlib import Path

import pytest

from llmops.data.collect.readers.decoding import detect_encoding

LONG = "How?,Like this it goes on and on\n" * 20


def open_file(tmp_path: Path, data: bytes) -> io.BufferedReader:
    (tmp_path / "x").write_bytes(data)
    return open(tmp_path / "x", "rb")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("naïve", "utf-8-sig"),
        ("naïve", "utf-16"),
        ("Question,Answer\nCafé,Yes\n", "utf-16-le"),
        ("q,a\nPrice?,It costs £5\n" + LONG, "cp1252"),
        ("Müller,Köln\nJosé,Málaga\n", "cp1252"),
        ("Jak długo trwa dostawa?,Zamówienie dotrze w ciągu trzech dni, także w święta.\n" * 3, "cp1250"),
        ("где,Доставка занимает три дня в Москву\n" * 3, "cp1251"),
    ],
)
def test_detected_text_is_the_text_that_was_written(tmp_path: Path, text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert data.decode(detect_encoding(open_file(tmp_path, data))).removeprefix("\ufeff") == text


def test_most_lines_decide_wherever_they_stand(tmp_path: Path) -> None:
    utf8, cp1252, ascii_lines = "déjà vu\n".encode(), "Müller, Köln\n".encode("cp1252"), b"plain\n" * 100_000
    assert detect_encoding(open_file(tmp_path, utf8 + cp1252)) == "utf-8"
    assert detect_encoding(open_file(tmp_path, utf8 + cp1252 * 3)) == "cp1252"
    assert detect_encoding(open_file(tmp_path, ascii_lines + cp1252)) == "cp1252"
    assert detect_encoding(open_file(tmp_path, ascii_lines + utf8)) == "utf-8"
