"""Bytes to text. What does not decode stays visible, so that its row can be quarantined and the others go on."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path

from llmops.data.readers.origin import Origin
from llmops.errors import SourceError

log = logging.getLogger(__name__)

# What files are really saved in, the web's fallback first. Left to itself, the detector takes a lone "£" in an English
# file for the Polish "Ł": it ranks by likely letters, of which a short file has few.
CANDIDATES = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "shift_jis", "euc_kr", "big5", "gb18030", "utf_16"]
MARGIN = 0.05  #: how much messier (0 to 1) the fallback may look than the detector's best guess, and still be taken

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path, origin: Origin) -> tuple[str, Origin]:
    """The text of a file, and its origin with the encoding filled in.

    A byte that does not decode becomes a lone surrogate, which `Origin.document` finds and quarantines.

    Raises:
        SourceError: if the source's `encoding` does not exist or can not read the file at all.
    """
    data = path.read_bytes()
    encoding = origin.source.encoding or detect(data)
    try:
        text = data.decode(encoding, "surrogateescape")
    except UnicodeDecodeError as error:
        raise SourceError(f"{origin.location} is not {encoding}: {error.reason} at byte {error.start}.") from None
    if not origin.source.encoding and encoding not in ("utf-8", "utf-8-sig"):
        log.warning(
            "source %s: %s is not UTF-8; read as %s, which was detected. If words look wrong, set its `encoding`.",
            origin.source.name,
            origin.location,
            encoding,
        )
    return text, origin.read_as(encoding)


def detect(data: bytes) -> str:
    """The encoding of `data`.

    UTF-8 if all of it is, and also if only some lines are not: other encodings hardly ever make valid UTF-8 by chance.
    """
    if bom := next((mark for mark in BOMS if data.startswith(mark)), None):
        return BOMS[bom]
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass  # looked into below
    if any(not line.isascii() and _is_utf8(line) for line in data.splitlines()):
        return "utf-8"
    from charset_normalizer import from_bytes

    matches = from_bytes(data, cp_isolation=CANDIDATES)
    best = matches.best()
    if best is None:
        return "utf-8"
    for match in matches:
        if CANDIDATES[0] in match.could_be_from_charset and match.chaos <= best.chaos + MARGIN:
            return CANDIDATES[0]
    return best.encoding


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
