"""The lines of a PDF page in reading order: column after column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median

from pypdfium2 import PdfPage

from llmops.data.collect.readers.pdf.pdf_words import RAISED_SIZE, Word, read_words

# In font sizes of most of the page's text:
HEADING_FACTOR = 1.1  #: size from which a line is a heading
GUTTER_WIDTH = 1.0  #: least width of the strip between columns; spaces between words are about 0.3, stretched ones 0.6
MIN_COLUMN_WIDTH = 12.0  #: least width of a column, some 25 characters; bullets and most table cells have less
BREAK_DISTANCE = 2.0  #: distance of two lines from which they do not belong together
SAME_LINE_DISTANCE = 0.4  #: largest distance of the baselines of two words on one line

MIN_COLUMN_LINES = 4  #: least lines of a column
FILLED_SHARE = 0.6  #: share of a column's width that most of its lines fill: true for running text, not for table cells
MARK_DISTANCE = 0.5  #: largest distance of such a digit from its word
LEVEL_TOLERANCE = 0.05  #: largest difference of equal baselines
JOIN_DISTANCE = 0.15  #: largest distance of a mark without a space
TOUCH_DISTANCE = 0.05  #: largest distance of two parts of one word, as of an address in a line from right to left

_RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class PdfLine:
    """One line of a page and its font."""

    text: str
    page: int
    size: float  #: font size in points
    bold: bool
    left: float  #: left edge, in points
    monospaced: bool = False  #: all of it is in a font for code
    ends_in_code: bool = False


Row = list[Word]  #: the words at one height, from left to right
Span = tuple[float, float]  #: left and right edge, in points


def extract_rows(page: PdfPage) -> list[Row]:
    """Return the words of a page, from top to bottom, each row from left to right."""
    words = read_words(page)
    rows = _group_rows(word for word in words if not word.raised)
    return _group_rows(_attach_mark(word, rows) if word.raised else word for word in words)


def _group_rows(words: Iterable[Word]) -> list[Row]:
    rows: list[Row] = []
    for word in sorted(words, key=lambda word: (word.bottom, word.left)):
        if not rows or word.bottom - rows[-1][0].bottom > SAME_LINE_DISTANCE * rows[-1][0].size:
            rows.append([])
        rows[-1].append(word)
    return [sorted(row, key=lambda word: word.left) for row in rows]


def _attach_mark(mark: Word, rows: Iterable[Row]) -> Word:
    """Put a raised number on the line of the word that it touches; as a superscript if it is higher than that word."""
    for row in rows:
        for word in row:
            height = (word.bottom - mark.bottom) / word.size
            is_near = min(abs(mark.left - word.right), abs(word.left - mark.right)) <= MARK_DISTANCE * word.size
            if is_near and -LEVEL_TOLERANCE <= height <= RAISED_SIZE:
                shown_text = mark.text.translate(_SUPERSCRIPT) if height > LEVEL_TOLERANCE else mark.text
                return replace(mark, bottom=word.bottom, text=shown_text)
    return replace(mark, raised=mark.narrow)


def build_lines(rows: Sequence[Row], number: int) -> list[PdfLine]:
    """Return the lines of page `number`. Text across all columns separates the columns above from those below."""
    sizes = [word.size for row in rows for word in row]
    lines: list[PdfLine] = []
    for row in _order_rows(rows, median(sizes)) if sizes else ():
        is_bold, size = all(word.bold for word in row), max(word.size for word in row)
        monospaced = [word.monospaced for word in row if any(map(str.isalnum, word.text))] or [False]
        fonts = all(monospaced), monospaced[-1]
        lines.append(PdfLine(join_words(row), number, size, is_bold, row[0].left, *fonts))
    return lines


def join_words(row: Row) -> str:
    """Return the words of a row as one line, in the order of reading."""
    joined, end, was_raised = "", 0.0, False
    for word in _order_words(row):
        space = (word.left - end) / word.size
        is_joined = (
            not joined or abs(space) <= TOUCH_DISTANCE or ((word.raised or was_raised) and space <= JOIN_DISTANCE)
        )
        joined += ("" if is_joined else " ") + word.text
        end, was_raised = word.right, word.raised
    return joined


def _order_words(row: Row) -> Row:
    """Return the words of a row from right to left if most of them are in such a script; others keep theirs."""
    flags = [bool(_RIGHT_TO_LEFT.search(word.text)) for word in row]
    if sum(flags) * 2 <= sum(any(map(str.isalpha, word.text)) for word in row):
        return row
    parts = groupby(zip(flags, row, strict=True), lambda pair: pair[0])
    runs = [[word for _, word in (reversed([*pairs]) if is_reversed else pairs)] for is_reversed, pairs in parts]
    return [word for run in reversed(runs) for word in run]


def _order_rows(rows: Sequence[Row], size: float) -> Iterator[Row]:
    start = 0
    while start < len(rows):
        end, gutter = _find_columns(rows, start, size)
        if gutter is None:
            yield rows[start]
        else:
            for side in _split_columns(rows[start:end], gutter):
                yield from _order_rows(side, size)
        start = end


def _find_columns(rows: Sequence[Row], start: int, size: float) -> tuple[int, float | None]:
    """Return the end of the rows from `start` that leave a common vertical strip free, and the strip's middle.

    A table below the columns may leave the same strip free. So the rows may also end before a heading.
    """
    gaps: list[Span] = [(-math.inf, math.inf)]
    end, strips = start + 1, list[Span]()
    for i in range(start, len(rows)):
        gaps = [
            (max(a, c), min(b, d))
            for a, b in gaps
            for c, d in _find_gaps(rows[i])
            if min(b, d) - max(a, c) >= GUTTER_WIDTH * size
        ]
        inner_gaps = [span for span in gaps if math.isfinite(span[0]) and math.isfinite(span[1])]
        if strips and not inner_gaps:
            break
        if inner_gaps:
            end, strips = i + 1, inner_gaps
    # A running title above the columns or a footer below them is not part of them: a few lines at a distance.
    distant_rows = [
        i for i in range(start + 1, end) if rows[i][0].bottom - rows[i - 1][0].bottom > BREAK_DISTANCE * size
    ]
    if distant_rows and distant_rows[0] < start + MIN_COLUMN_LINES:
        return start + 1, None
    end = next((i for i in distant_rows if i > end - MIN_COLUMN_LINES), end)
    headings = [i for i in range(start + 1, end) if max(word.size for word in rows[i]) > size * HEADING_FACTOR]
    for stop in (end, *reversed(headings)):
        for left, right in sorted(strips, key=lambda span: span[0] - span[1]):
            middle = (left + right) / 2
            if all(_is_column(side, size) for side in _split_columns(rows[start:stop], middle)):
                return stop, middle
    return start + 1, None


def _find_gaps(row: Row) -> list[Span]:
    edges = [-math.inf, *(edge for word in row for edge in (word.left, word.right)), math.inf]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _split_columns(rows: Sequence[Row], gutter: float) -> tuple[list[Row], list[Row]]:
    left = [[word for word in row if word.left < gutter] for row in rows]
    right = [[word for word in row if word.left >= gutter] for row in rows]
    return [row for row in left if row], [row for row in right if row]


def _is_column(rows: Sequence[Row], size: float) -> bool:
    if len(rows) < MIN_COLUMN_LINES:
        return False
    width = max(row[-1].right for row in rows) - min(row[0].left for row in rows)
    filled_rows = sum(row[-1].right - row[0].left >= FILLED_SHARE * width for row in rows)
    return width >= MIN_COLUMN_WIDTH * size and filled_rows * 2 >= len(rows)
