"""The lines of a PDF page in the order in which a person reads them: column after column."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pdfplumber.page import Page

# All in font sizes, of most of the page's text.
GUTTER = 1.0  #: least width of the strip between two columns; spaces between words are about 0.3, stretched ones 0.6
NARROWEST = 12.0  #: width that a column has at least, some 25 characters; bullets and most table cells have less
BREAK = 2.0  #: distance of two lines from which they do not belong together
SAME_LINE = 0.4  #: distance of two words' feet up to which they stand on one line

TILT = 0.1  #: slope from which a line is not level
FEWEST = 4  #: lines that a column has at least
FILLED = 0.6  #: share of a column's width that most of its lines fill: running text does, the cells of a table do not


@dataclass(frozen=True, slots=True)
class Word:
    """One word and where it stands, in points from the upper left corner of the page."""

    text: str
    left: float
    right: float
    foot: float
    size: float  #: font size in points
    bold: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page and how it is set."""

    text: str
    page: int
    size: float  #: font size in points
    bold: bool


Row = list[Word]  #: the words on one level, from left to right
Span = tuple[float, float]  #: from left to right, in points


def rows(page: Page) -> list[Row]:
    """The words of a page, level by level from the top, each from left to right."""
    # Letters that are further apart than 0.15 font sizes belong to two words; a fixed distance fails in small print.
    words = [_word(word) for word in page.filter(_is_level).extract_words(x_tolerance_ratio=0.15, return_chars=True)]
    out: list[Row] = []
    for word in sorted(words, key=lambda word: (word.foot, word.left)):
        if not out or word.foot - out[-1][0].foot > SAME_LINE * out[-1][0].size:
            out.append([])
        out[-1].append(word)
    return [sorted(row, key=lambda word: word.left) for row in out]


def lines(rows: Sequence[Row], number: int) -> list[Line]:
    """The lines of page `number`. What stands across all columns parts those above it from those below."""
    sizes = [word.size for row in rows for word in row]
    return [
        Line(text(row), number, max(word.size for word in row), all(word.bold for word in row))
        for row in (_in_order(rows, median(sizes)) if sizes else ())
    ]


def text(row: Row) -> str:
    """The words of a row as one line."""
    return " ".join(word.text for word in row)


def _is_level(item: Mapping[str, Any]) -> bool:
    """Whether it is no letter that climbs or falls, as those of a stamp across the page do."""
    if item["object_type"] != "char":
        return True
    along, up, *_ = item["matrix"]
    return bool(abs(up) < TILT * abs(along))


def _word(word: Mapping[str, Any]) -> Word:
    size = max(letter["size"] for letter in word["chars"])
    bold = all("bold" in letter["fontname"].lower() for letter in word["chars"])
    return Word(word["text"], word["x0"], word["x1"], word["bottom"], round(size, 1), bold)


def _in_order(rows: Sequence[Row], size: float) -> Iterator[Row]:
    start = 0
    while start < len(rows):
        end, gutter = _columns(rows, start, size)
        if gutter is None:
            yield rows[start]
        else:
            for side in _sides(rows[start:end], gutter):
                yield from _in_order(side, size)
        start = end


def _columns(rows: Sequence[Row], start: int, size: float) -> tuple[int, float | None]:
    """Where the rows from `start` on that leave one strip free end, and the middle of that strip if there is one."""
    free: list[Span] = [(-math.inf, math.inf)]
    end, strips = start + 1, list[Span]()
    for i in range(start, len(rows)):
        free = [
            (max(a, c), min(b, d)) for a, b in free for c, d in _free(rows[i]) if min(b, d) - max(a, c) >= GUTTER * size
        ]
        inner = [span for span in free if math.isfinite(span[0]) and math.isfinite(span[1])]
        if strips and not inner:
            break
        if inner:
            end, strips = i + 1, inner
    # A running title over the columns, or a footer under them, is no part of them: a few lines at a distance.
    apart = [i for i in range(start + 1, end) if rows[i][0].foot - rows[i - 1][0].foot > BREAK * size]
    if apart and apart[0] < start + FEWEST:
        return start + 1, None
    end = next((i for i in apart if i > end - FEWEST), end)
    for left, right in sorted(strips, key=lambda span: span[0] - span[1]):
        middle = (left + right) / 2
        if all(_is_column(side, size) for side in _sides(rows[start:end], middle)):
            return end, middle
    return start + 1, None


def _free(row: Row) -> list[Span]:
    """The spans of a row without words, the margins included."""
    edges = [-math.inf, *(edge for word in row for edge in (word.left, word.right)), math.inf]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _sides(rows: Sequence[Row], gutter: float) -> tuple[list[Row], list[Row]]:
    left = [[word for word in row if word.left < gutter] for row in rows]
    right = [[word for word in row if word.left >= gutter] for row in rows]
    return [row for row in left if row], [row for row in right if row]


def _is_column(rows: Sequence[Row], size: float) -> bool:
    if len(rows) < FEWEST:
        return False
    width = max(row[-1].right for row in rows) - min(row[0].left for row in rows)
    filled = sum(row[-1].right - row[0].left >= FILLED * width for row in rows)
    return width >= NARROWEST * size and filled * 2 >= len(rows)
