"""The lines of a PDF page in reading order: column after column."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median
from typing import Any

from pdfplumber.page import Page

# In font sizes of most of the page's text:
GUTTER_WIDTH = 1.0  #: least width of the strip between columns; spaces between words are about 0.3, stretched ones 0.6
MIN_COLUMN_WIDTH = 12.0  #: least width of a column, some 25 characters; bullets and most table cells have less
BREAK_DISTANCE = 2.0  #: distance of two lines from which they do not belong together
SAME_LINE_DISTANCE = 0.4  #: largest distance of the baselines of two words on one line

MAX_SLOPE = 0.1  #: slope from which a line is not horizontal
MIN_COLUMN_LINES = 4  #: least lines of a column
FILLED_SHARE = 0.6  #: share of a column's width that most of its lines fill: true for running text, not for table cells
RAISED_SIZE = 0.8  #: largest relative size or width of a digit that is a footnote's mark or an exponent
RAISED_HEIGHT = 0.15  #: least height of such a digit
MARK_DISTANCE = 0.5  #: largest distance of such a digit from its word
LEVEL_TOLERANCE = 0.05  #: largest difference of equal baselines
JOIN_DISTANCE = 0.15  #: largest distance without a space

_MARK = re.compile(r"\d{1,3}")
_CODE_FONT = re.compile(
    r"mono(?!type)|courier|consolas|typewriter|menlo|inconsolata|(?:^|\+)(?:cmtt|sftt|lmtt)", re.IGNORECASE
)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Word:
    """One word and its position, in points from the upper left corner of the page."""

    text: str
    left: float
    right: float
    bottom: float
    size: float  #: font size in points
    bold: bool
    monospaced: bool = False  #: all its letters have equal width, as in code
    raised: bool = False  #: it is a number that may be an exponent or a footnote's mark
    narrow: bool = False  #: only the width of its glyphs shows that it is raised


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


def extract_rows(page: Page) -> list[Row]:
    """Return the words of a page, from top to bottom, each row from left to right."""
    # Letters further apart than 0.15 font sizes belong to two words; a fixed distance fails for small print.
    raw_words = page.filter(_is_horizontal).extract_words(x_tolerance_ratio=0.15, return_chars=True)
    usual_size = median(sizes) if (sizes := [letter["size"] for word in raw_words for letter in word["chars"]]) else 0.0
    widths: dict[str, float] = {}  # font → width of its widest digit
    for letter in (letter for word in raw_words for letter in word["chars"] if letter["text"].isdigit()):
        widths[letter["fontname"]] = max(widths.get(letter["fontname"], 0.0), _compute_width(letter))
    words = [part for word in raw_words for part in _split_word(word, usual_size, widths)]
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
    """Return the words of a row as one line."""
    joined, end, was_raised = "", 0.0, False
    for word in row:
        is_joined = not joined or ((word.raised or was_raised) and word.left - end <= JOIN_DISTANCE * word.size)
        joined += ("" if is_joined else " ") + word.text
        end, was_raised = word.right, word.raised
    return joined


def _is_horizontal(item: Mapping[str, Any]) -> bool:
    if item["object_type"] != "char":
        return True
    along, up, *_ = item["matrix"]
    return bool(abs(up) < MAX_SLOPE * abs(along))


def _compute_width(letter: Mapping[str, Any]) -> float:
    return float((letter["x1"] - letter["x0"]) / letter["size"])


def _split_word(word: Mapping[str, Any], usual_size: float, widths: Mapping[str, float]) -> Iterator[Word]:
    """Yield the word, with each raised number in it as a separate word."""
    letters = word["chars"]
    size = max(letter["size"] for letter in letters)
    bottom = max(letter["bottom"] for letter in letters if letter["size"] == size)

    def is_raised(letter: Mapping[str, Any]) -> bool:
        is_small = letter["size"] <= RAISED_SIZE * size and bottom - letter["bottom"] > RAISED_HEIGHT * size
        # Some fonts have small raised digits of the same size. A small digit alone may be a page number in the body.
        return letter["text"].isdigit() and (
            is_small or _compute_width(letter) <= RAISED_SIZE * widths[letter["fontname"]]
        )

    if all(map(is_raised, letters)) or (_MARK.fullmatch(word["text"]) and size <= RAISED_SIZE * usual_size):
        yield replace(_build_word(letters), raised=True, narrow=size > RAISED_SIZE * usual_size)
        return
    for raised, part_letters in groupby(letters, is_raised):
        part = _build_word([*part_letters])
        yield replace(part, raised=raised, narrow=raised and part.size > RAISED_SIZE * size)


def _build_word(letters: Sequence[Mapping[str, Any]]) -> Word:
    size = max(letter["size"] for letter in letters)
    is_bold = all("bold" in letter["fontname"].lower() for letter in letters)
    monospaced = all(_CODE_FONT.search(letter["fontname"]) for letter in letters)
    left, right = min(letter["x0"] for letter in letters), max(letter["x1"] for letter in letters)
    bottom = max(letter["bottom"] for letter in letters)
    return Word("".join(letter["text"] for letter in letters), left, right, bottom, round(size, 1), is_bold, monospaced)


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
    """Return the end of the rows from `start` that leave a common vertical strip free, and the strip's middle."""
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
    for left, right in sorted(strips, key=lambda span: span[0] - span[1]):
        middle = (left + right) / 2
        if all(_is_column(side, size) for side in _split_columns(rows[start:end], middle)):
            return end, middle
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
