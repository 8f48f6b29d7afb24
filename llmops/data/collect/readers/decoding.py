"""Decoding of files to text, as a stream. Undecodable bytes stay visible, so that only their row is quarantined."""

import codecs
import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from llmops.data.collect.readers.origin import Origin

log = logging.getLogger(__name__)

# Encodings of real files, the web's default first. Without this list, the detector reads a single "£" in an English
# file as the Polish "Ł": it ranks by frequent letters, and a short file has few.
LIKELY_ENCODINGS = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "shift_jis", "euc_kr", "big5", "gb18030"]
DISORDER_MARGIN = 0.05  #: the default is chosen if its disorder exceeds the best guess' by at most this (both 0 to 1)
SAMPLE_BYTES = 1 << 16  #: bytes for distinguishing binary from text, and encodings
LARGEST_RECORD = 1 << 24  #: most characters of a line, value or record; a longer one would fill the memory
LARGEST_PAGE = 1 << 24  #: most bytes or characters of an unzipped page or JSON file, in memory with its structure

# Longest first: UTF-32's mark begins with UTF-16's.
BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SIGNATURES = {
    b"PK\x03\x04": "a ZIP archive, such as an Excel workbook (kind `xlsx`)",
    b"%PDF-": "a PDF file",
    b"PAR1": "a Parquet file",
    b"SQLite format 3\0": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}


Bytes = io.BufferedReader | gzip.GzipFile

GZIP_ERRORS = (EOFError, zlib.error)  #: errors of a truncated or damaged gzip file


class UnreadableError(OSError):
    """A file, or the rest of it, is not readable as its source's kind. It is quarantined as `unreadable`."""


@contextmanager
def open_bytes(path: Path) -> Iterator[Bytes]:
    """Open a file for reading, and unzip it if it is gzip, whatever its name.

    Raises:
        UnreadableError: if a gzip file is cut off. The part before was read.
    """
    with path.open("rb") as plain:
        is_gzip = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file: Bytes = gzip.GzipFile(fileobj=plain) if is_gzip else plain
        try:
            yield file
        except GZIP_ERRORS as error:
            raise UnreadableError(f"the gzip file is cut off or damaged: {error}") from error


@contextmanager
def open_text(path: Path, origin: Origin, newline: str | None = None) -> Iterator[tuple[TextIO, Origin]]:
    """Open a text file. Return it, and its origin with the encoding: the source's, or the detected one.

    An undecodable byte becomes a lone surrogate, which `Origin.make_document` quarantines.

    Raises:
        UnreadableError: if it is not text, or not in the source's encoding.
    """
    with open_bytes(path) as file:
        encoding = origin.source.encoding or detect_encoding(file)
        file.seek(0)
        if not origin.source.encoding and encoding != "utf-8":
            log.warning(
                "source %s: %s is not UTF-8; read as %s, which was detected. If words look wrong, set its `encoding`.",
                *(origin.source.name, origin.location, encoding),
            )
        codec = "utf-8-sig" if encoding == "utf-8" else encoding
        try:
            yield io.TextIOWrapper(file, codec, "surrogateescape", newline), origin.replace_encoding(encoding)
        except UnicodeError as error:  # only the subclass has a reason; a codec that misses its mark raises the base
            reason = error.reason if isinstance(error, UnicodeDecodeError) else error
            raise UnreadableError(f"it is not {encoding}: {reason}; set the source's `encoding`") from error


def read_text(path: Path, origin: Origin, limit: int, hint: str) -> tuple[str, Origin]:
    """Return the whole text of a file. See `open_text`.

    Raises:
        UnreadableError: if it is not text, or has more than `limit` characters unzipped. `hint` says what to do then.
    """
    with open_text(path, origin) as (file, decoded_origin):
        text = file.read(limit)
        if len(text) == limit and file.read(1):
            text = ""  # the error's traceback would keep it in memory
            raise make_size_error(limit, "characters", hint)
        return text, decoded_origin


def make_size_error(limit: int, unit: str, hint: str) -> UnreadableError:
    """Return the error for a file that would fill the memory. A small file may have gigabytes when it is unzipped."""
    return UnreadableError(f"it holds more than {limit:,} {unit}, unzipped, and would fill the memory; {hint}")


def read_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of `file` with their ends. A longer line is cut to `LARGEST_RECORD` + 1 characters."""
    while line := file.readline(LARGEST_RECORD + 1):
        yield line
        while len(line) > LARGEST_RECORD and line[-1] != "\n":
            line = file.readline(LARGEST_RECORD + 1) or "\n"


def find_line(file: Bytes, number: int) -> bytes:
    """Return line `number` of `file`, counted from 1, or its first `LARGEST_RECORD` bytes."""
    for _ in range(number - 1):
        while (part := file.readline(SAMPLE_BYTES)) and not part.endswith(b"\n"):
            pass
    return file.readline(LARGEST_RECORD)


def detect_encoding(file: Bytes) -> str:
    """Return the encoding of the text in `file`, which is read once or twice, as a stream.

    It is UTF-8 if the whole file is, or at least half of its non-ASCII lines: other encodings are hardly ever valid
    UTF-8 by chance.

    Raises:
        UnreadableError: if it is not text.
    """
    head = file.read1(SAMPLE_BYTES)
    if bom := next((mark for mark in BOMS if head.startswith(mark)), None):
        return BOMS[bom]
    if utf16 := _detect_utf16(head):
        return utf16
    if kind := next((SIGNATURES[mark] for mark in SIGNATURES if head.startswith(mark)), ""):
        raise UnreadableError(f"it is {kind}, not text")
    if b"\0" in head:
        raise UnreadableError(
            "it holds zero bytes: a binary file, or text in an encoding that must be named by `encoding`"
        )
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read1(SAMPLE_BYTES):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
        return "utf-8"
    except GZIP_ERRORS:  # the part before is UTF-8; the reader will report the error
        return "utf-8"
    except UnicodeDecodeError:
        file.seek(0)  # decided by lines below
    utf8_lines, other_lines, sample = 0, 0, bytearray()
    with suppress(*GZIP_ERRORS):
        while line := file.readline(SAMPLE_BYTES):
            if line.isascii():
                continue
            if _is_utf8(line):
                utf8_lines += 1
            else:
                other_lines += 1
                sample += line[: SAMPLE_BYTES - len(sample)]
    return "utf-8" if utf8_lines and utf8_lines >= other_lines else _guess_encoding(bytes(sample))


def _guess_encoding(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=LIKELY_ENCODINGS)
    best = matches.best()
    if best is None:
        return "utf-8"
    for match in matches:
        if LIKELY_ENCODINGS[0] in match.could_be_from_charset and match.chaos <= best.chaos + DISORDER_MARGIN:
            return LIKELY_ENCODINGS[0]
    return best.encoding


def _detect_utf16(head: bytes) -> str:
    """Return UTF-16's byte order if every other byte is zero, as in Western text without a mark; else empty."""
    zeros = [head[0::2].count(0), head[1::2].count(0)]
    most, least = len(head) * 0.2, len(head) * 0.02
    if zeros[1] > most and zeros[0] <= least:
        return "utf-16-le"
    return "utf-16-be" if zeros[0] > most and zeros[1] <= least else ""


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
