"""The lines of a PDF as text: running text is joined, list items and code keep their lines."""

import re
from collections.abc import Sequence
from itertools import groupby

from llmops.data.collect.readers.pages.pdf_layout import Line, lines

LETTER = 0.6  #: width of a letter of code, in font sizes

_CUT_WORD = re.compile(r"[^\W\d_]{2}[-\u00ad\u2010]$")  # a word that continues on the next line
_CUT_NUMBER = re.compile(r"\d-[a-z]$")  # a word such as 32-bit, with the next line's first letter
_CUT_ADDRESS = re.compile(r"[(<\[](?:https?|ftp):[^\s)>\]]*$")  # an address in brackets that continues
_GOES_ON = re.compile(r"\S*[)>\]/._#?=&%@-]")
_CUT_CODE = re.compile(r"\s*(?:←\W?|↩)$")  # mark of some programs where a line of code is wrapped
_BULLET = re.compile(r"[•‣▪◦*–-]\s")


def with_notes_below(found: Sequence[Line], heading: Sequence[Line] = ()) -> str:
    """Return lines as text, followed by the footnotes of them and their heading in brackets, each on its own line."""
    notes = [note for line in (*heading, *found) for note in line.notes]
    return "\n".join(filter(None, [joined(found, code=True), *(f"[{joined(lines(note.rows, 0))}]" for note in notes)]))


def joined(found: Sequence[Line], *, code: bool = False) -> str:
    """Return lines as one text.

    Without `code` all is running text.
    """
    parts = groupby(zip(found, _blocks(found), strict=True), lambda item: code and item[1])
    return "\n".join((_code if block else _running)([line for line, _ in some]) for block, some in parts)


def _blocks(found: Sequence[Line]) -> list[bool]:
    blocks: list[bool] = []
    for i, line in enumerate(found):
        within = i and not blocks[-1] and (found[i - 1].ends_in_code or _CUT_ADDRESS.search(found[i - 1].text))
        blocks.append(line.code and not within)
    return blocks


def _code(found: Sequence[Line]) -> str:
    margin, text = min(line.left for line in found), ""
    for line in found:
        if text and _CUT_CODE.search(text):
            text = _CUT_CODE.sub("", text) + line.text
        else:
            indent = " " * round((line.left - margin) / (LETTER * line.size))
            text += "\n" * bool(text) + indent + line.text
    return text


def _running(found: Sequence[Line]) -> str:
    text, item = "", None  # last item of a list
    for line in found:
        if (_CUT_ADDRESS.search(text) and _GOES_ON.match(line.text)) or _CUT_NUMBER.search(text + line.text[:1]):
            text += line.text
        elif _CUT_WORD.search(text) and line.text[0].islower():
            text = text[:-1] + line.text
        else:
            bullet = _BULLET.match(line.text)
            after = item and line.page == item.page and line.left <= item.left
            text += ("\n" if bullet or after else " ") * bool(text) + line.text
            item = line if bullet else None if after else item
    return text
