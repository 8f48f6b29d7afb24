"""Footnotes of a PDF: moved from the foot of the page to the words that refer to them."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from llmops.data.collect.readers.pages.pdf_layout import Footnote, Row, join_words

NOTE_SIZE = 0.88  #: font size of notes, relative to the body, at most; listings are often at 0.9
_ENDS = ".!?:)]\"'”’"


def attach_notes(pages: Sequence[list[Row]], body: float) -> list[list[Row]]:
    """Return the pages with each footnote attached to its raised mark and removed from the rows.

    Footnotes are rows in small print at the foot of a page, from the first row that begins with a raised mark that the
    text above has, too. Small print before it continues the last note of the previous page if that is unfinished. All
    other small print stays.

    `body` is the font size of most text, in points.
    """
    result, last_note = [], Footnote([])
    for page in pages:
        page, last_note = _attach_page_notes(page, body, last_note)
        result.append(page)
    return result


def _attach_page_notes(page: list[Row], body: float, last_note: Footnote) -> tuple[list[Row], Footnote]:
    start = len(page)
    while start and median(word.size for word in page[start - 1]) < body * NOTE_SIZE:
        start -= 1
    above, small_print = page[:start], page[start:]
    marks = {word.text for row in above for word in row if word.raised}
    notes: dict[str, Footnote] = {}
    kept_rows: list[Row] = []
    for row in small_print:
        if row[0].raised and row[0].text in marks - notes.keys():
            last_note = notes[row[0].text] = Footnote([row[1:]] if row[1:] else [])
        elif notes or (last_note.rows and join_words(last_note.rows[-1])[-1:] not in _ENDS):
            last_note.rows.append(row)
        else:
            kept_rows.append(row)
    marked_rows = [
        [replace(word, text="", note=notes[word.text]) if word.raised and word.text in notes else word for word in row]
        for row in above
    ]
    return marked_rows + kept_rows, last_note if notes else Footnote([])
