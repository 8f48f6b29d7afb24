"""The footnotes of a PDF: taken from the foot of the page to the words that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from llmops.data.collect.readers.pages.pdf_layout import Note, Row, text

SMALLER = 0.88  #: most words of notes are set in a font this much smaller than most text; listings are often at 0.9
_ENDS = ".!?:)]\"'”’"


def with_notes(pages: Sequence[list[Row]], body: float) -> list[list[Row]]:
    """The pages with each footnote at its raised mark and no longer among the rows.

    Footnotes are the rows in small print at the foot of a page from the first on that begins with a raised mark which
    the text above has too; small print before it goes on with the last note of the page before, if that has no
    end. Whatever else is set so stays where it is.

    Args:
        body: font size of most text, in points.
    """
    found, last = [], Note([])
    for page in pages:
        page, last = _page(page, body, last)
        found.append(page)
    return found


def _page(page: list[Row], body: float, last: Note) -> tuple[list[Row], Note]:
    start = len(page)
    while start and median(word.size for word in page[start - 1]) < body * SMALLER:
        start -= 1
    above, small = page[:start], page[start:]
    marks = {word.text for row in above for word in row if word.raised}
    notes: dict[str, Note] = {}
    stays: list[Row] = []
    for row in small:
        if row[0].raised and row[0].text in marks - notes.keys():
            last = notes[row[0].text] = Note([row[1:]] if row[1:] else [])
        elif notes or (last.rows and text(last.rows[-1])[-1:] not in _ENDS):
            last.rows.append(row)
        else:
            stays.append(row)
    noted = [
        [replace(word, text="", note=notes[word.text]) if word.raised and word.text in notes else word for word in row]
        for row in above
    ]
    return noted + stays, last if notes else Note([])
