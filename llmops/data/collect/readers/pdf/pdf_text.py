"""The lines of a PDF as text: running text is joined, list items and code keep their lines."""

import re
from collections.abc import Sequence
from itertools import groupby

from llmops.data.collect.readers.pdf.pdf_layout import PdfLine

LETTER = 0.6  #: width of a letter of code, in font sizes

_CUT_WORD = re.compile(r"[^\W\d_]{2}[-\u00ad\u2010]$")  # a word that continues on the next line
_CUT_NUMBER = re.compile(r"\d-[a-z]$")  # a word such as 32-bit, with the next line's first letter
_CUT_ADDRESS = re.compile(r"[(<\[](?:https?|ftp):[^\s)>\]]*$")  # an address in brackets that continues
_ADDRESS_REST = re.compile(r"\S*[)>\]/._#?=&%@-]")
_CUT_CODE = re.compile(r"\s*(?:←\W?|↩)$")  # mark of some programs where a line of code is wrapped
_BULLET = re.compile(r"[•‣▪◦*–-]\s")


def join_lines(lines: Sequence[PdfLine], *, keep_code: bool = False) -> str:
    """Return lines as one text. Code keeps its lines only with `keep_code`; otherwise it is joined as running text."""
    parts = groupby(zip(lines, _flag_code(lines), strict=True), lambda item: keep_code and item[1])
    return "\n".join(
        (_join_code if is_code else _join_running_text)([line for line, _ in group]) for is_code, group in parts
    )


def _flag_code(lines: Sequence[PdfLine]) -> list[bool]:
    flags: list[bool] = []
    for i, line in enumerate(lines):
        continues_text = i and not flags[-1] and (lines[i - 1].ends_in_code or _CUT_ADDRESS.search(lines[i - 1].text))
        flags.append(line.monospaced and not continues_text)
    return flags


def _join_code(lines: Sequence[PdfLine]) -> str:
    margin, text = min(line.left for line in lines), ""
    for line in lines:
        if text and _CUT_CODE.search(text):
            text = _CUT_CODE.sub("", text) + line.text
        else:
            indent = " " * round((line.left - margin) / (LETTER * line.size))
            text += "\n" * bool(text) + indent + line.text
    return text


def _join_running_text(lines: Sequence[PdfLine]) -> str:
    text, item = "", None  # last item of a list
    for line in lines:
        if (_CUT_ADDRESS.search(text) and _ADDRESS_REST.match(line.text)) or _CUT_NUMBER.search(text + line.text[:1]):
            text += line.text
        elif _CUT_WORD.search(text) and line.text[0].islower():
            text = text[:-1] + line.text
        else:
            bullet = _BULLET.match(line.text)
            continues_item = item and line.page == item.page and line.left <= item.left
            text += ("\n" if bullet or continues_item else " ") * bool(text) + line.text
            item = line if bullet else None if continues_item else item
    return text
