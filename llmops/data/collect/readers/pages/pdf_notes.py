"""Footnotes of a PDF: moved from the foot of the page to the words that refer to them."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from llmops.data.collect.readers.pages.pdf_layout import Note, Row, text

SMALLER = 0.88  #: font size of notes, relative to the body, at most; listings are often at 0.9
_ENDS = ".!?:)]\"'”’"


def with_notes(pages: Sequence[list[Row]], body: float) -> list[list[Row]]:
    """Return the pages with each footnote attached to its raised mark and removed from the rows.

    Footnotes are rows in small print at the foot of a page, from the first row that begins with a raised mark that the
    text above has, too. Small print before it continues the last note of the previous page if that is unfinished. All
    other small print stays.

    `body` is the font size of most text, in points.
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
