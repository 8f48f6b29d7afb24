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
GUTTER = 1.0  #: least width of the strip between two columns; spaces between words are about 0.3, stretched ones 0.6
NARROWEST = 12.0  #: least width of a column, some 25 characters; bullets and most table cells have less
BREAK = 2.0  #: distance of two lines from which they do not belong together
SAME_LINE = 0.4  #: largest distance of the baselines of two words on one line

TILT = 0.1  #: slope from which a line is not horizontal
FEWEST = 4  #: least lines of a column
FILLED = 0.6  #: share of a column's width that most of its lines fill: true for running text, not for table cells
RAISED = 0.8  #: largest relative size or width of a digit that is a footnote's mark or an exponent
RAISE = 0.15  #: least height of such a digit
NEAR = 0.5  #: largest distance of such a digit from its word
SAME_LEVEL = 0.05  #: largest difference of equal baselines
JOINED = 0.15  #: largest distance without a space

_MARK = re.compile(r"\d{1,3}")
_CODE_FONT = re.compile(
    r"mono(?!type)|courier|consolas|typewriter|menlo|inconsolata|(?:^|\+)(?:cmtt|sftt|lmtt)", re.IGNORECASE
)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(slots=True)
class Note:
    """The rows of a footnote, including those on the next page."""

    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Word:
    """One word and its position, in points from the upper left corner of the page."""

    text: str
    left: float
    right: float
    foot: float
    size: float  #: font size in points
    bold: bool
    code: bool = False  #: all its letters have equal width, as in code
    raised: bool = False  #: it is a number that may be a footnote's mark
    narrow: bool = False  #: only its glyphs' width shows that
    note: Note | None = None  #: the footnote of the mark that it replaces


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page and its font."""

    text: str
    page: int
    size: float  #: font size in points
    bold: bool
    left: float  #: left edge, in points
    code: bool = False  #: all of it is in a font for code
    ends_in_code: bool = False
    notes: tuple[Note, ...] = ()  #: footnotes of its words


Row = list[Word]  #: the words at one height, from left to right
Span = tuple[float, float]  #: left and right edge, in points


def rows(page: Page) -> list[Row]:
    """Return the words of a page, from top to bottom, each row from left to right."""
    # Letters further apart than 0.15 font sizes belong to two words; a fixed distance fails for small print.
    found = page.filter(_is_level).extract_words(x_tolerance_ratio=0.15, return_chars=True)
    usual = median(sizes) if (sizes := [letter["size"] for word in found for letter in word["chars"]]) else 0.0
    widths: dict[str, float] = {}  # font → width of its widest digit
    for letter in (letter for word in found for letter in word["chars"] if letter["text"].isdigit()):
        widths[letter["fontname"]] = max(widths.get(letter["fontname"], 0.0), _width(letter))
    words = [part for word in found for part in _words(word, usual, widths)]
    level = _levels(word for word in words if not word.raised)
    return _levels(_at_its_word(word, level) if word.raised else word for word in words)


def _levels(words: Iterable[Word]) -> list[Row]:
    out: list[Row] = []
    for word in sorted(words, key=lambda word: (word.foot, word.left)):
        if not out or word.foot - out[-1][0].foot > SAME_LINE * out[-1][0].size:
            out.append([])
        out[-1].append(word)
    return [sorted(row, key=lambda word: word.left) for row in out]


def _at_its_word(mark: Word, rows: Iterable[Row]) -> Word:
    """Put a raised number on the line of the word that it touches; as a superscript if only its height shows it."""
    for row in rows:
        for word in row:
            higher = (word.foot - mark.foot) / word.size
            near = min(abs(mark.left - word.right), abs(word.left - mark.right)) <= NEAR * word.size
            if near and -SAME_LEVEL <= higher <= RAISED:
                shown = mark.text.translate(_SUPERSCRIPT) if higher > SAME_LEVEL else mark.text
                return replace(mark, foot=word.foot, text=shown)
    return replace(mark, raised=mark.narrow)


def lines(rows: Sequence[Row], number: int) -> list[Line]:
    """Return the lines of page `number`. Text across all columns separates those above from those below."""
    sizes = [word.size for row in rows for word in row]
    found: list[Line] = []
    waiting: tuple[Note, ...] = ()  # notes of a mark that is alone above all lines
    for row in _in_order(rows, median(sizes)) if sizes else ():
        notes, shown = tuple(word.note for word in row if word.note), text(row)
        if shown:
            bold, size = all(word.bold for word in row), max(word.size for word in row)
            code = [word.code for word in row if any(map(str.isalnum, word.text))] or [False]
            found.append(Line(shown, number, size, bold, row[0].left, all(code), code[-1], waiting + notes))
            waiting = ()
        elif found:
            found[-1] = replace(found[-1], notes=found[-1].notes + notes)
        else:
            waiting += notes
    return found


def text(row: Row) -> str:
    """Return the words of a row as one line."""
    shown, end, raised = "", 0.0, False
    for word in row:
        joined = not shown or ((word.raised or raised) and word.left - end <= JOINED * word.size)
        shown += ("" if joined else " ") + word.text if word.text else ""
        end, raised = word.right, word.raised
    return shown


def _is_level(item: Mapping[str, Any]) -> bool:
    if item["object_type"] != "char":
        return True
    along, up, *_ = item["matrix"]
    return bool(abs(up) < TILT * abs(along))


def _width(letter: Mapping[str, Any]) -> float:
    return float((letter["x1"] - letter["x0"]) / letter["size"])


def _words(word: Mapping[str, Any], usual: float, widths: Mapping[str, float]) -> Iterator[Word]:
    """Yield the word, with each raised number in it as a separate word."""
    letters = word["chars"]
    size = max(letter["size"] for letter in letters)
    foot = max(letter["bottom"] for letter in letters if letter["size"] == size)

    def is_raised(letter: Mapping[str, Any]) -> bool:
        small = letter["size"] <= RAISED * size and foot - letter["bottom"] > RAISE * size
        # Some fonts have small raised digits of the same size. A small digit alone may be a page number in the body.
        return letter["text"].isdigit() and (small or _width(letter) <= RAISED * widths[letter["fontname"]])

    if all(map(is_raised, letters)) or (_MARK.fullmatch(word["text"]) and size <= RAISED * usual):
        yield replace(_word(letters), raised=True, narrow=size > RAISED * usual)
        return
    for raised, run in groupby(letters, is_raised):
        part = _word([*run])
        yield replace(part, raised=raised, narrow=raised and part.size > RAISED * size)


def _word(letters: Sequence[Mapping[str, Any]]) -> Word:
    size = max(letter["size"] for letter in letters)
    bold = all("bold" in letter["fontname"].lower() for letter in letters)
    code = all(_CODE_FONT.search(letter["fontname"]) for letter in letters)
    left, right = min(letter["x0"] for letter in letters), max(letter["x1"] for letter in letters)
    foot = max(letter["bottom"] for letter in letters)
    return Word("".join(letter["text"] for letter in letters), left, right, foot, round(size, 1), bold, code)


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
    """Return the end of the rows from `start` that leave a common vertical strip free, and the strip's middle."""
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
    # A running title above the columns or a footer below them is not part of them: a few lines at a distance.
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
