"""Running heads and feet of a PDF's pages: repeated rows, page numbers, and titles that change by chapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

from llmops.data.collect.readers.pages.pdf_layout import Row, text

ROWS = 2  #: rows checked at each edge of a page
APART = 1.4  #: distance to the next row, relative to the usual one, from which a row stands apart
LEVEL = 3.0  #: points by which running heads of two pages may differ in height
FEWEST, SHARE = 3, 0.25  #: least number and share of pages with such a row; a chapter's first page often has none
LARGER = 1.05  #: a head's font is not larger than the body's by more than this factor
WIDE = 1.5  #: space between two words, in font sizes, that separates the chapter's title from the section's

_PAGE_NUMBER = re.compile(r"(?:page\s*)?[-–]?\s*\d{1,4}\s*(?:(?:/|of)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)
_ROMAN = re.compile(r"[ivxl]{1,7}|[IVXL]{1,7}")
_NUMBER = re.compile(r"^(?:[^\W\d]+\s+)?\d+(?:\.\d+)*[.:)]?\s+|\s+\d{1,4}$")
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Edge:
    """The rows at one edge of a page that stand apart from the rest."""

    page: int  #: index
    rows: list[Row]  #: outermost first
    bold: bool
    says: frozenset[str]  #: their parts without numbers and case

    def near(self, other: Edge) -> bool:
        return abs(self.rows[0][0].foot - other.rows[0][0].foot) <= LEVEL


def without_edges(pages: list[list[Row]]) -> list[list[Row]]:
    """Return the pages without running heads and feet.

    Two rows at either edge are checked. Removed are rows that are equal on most pages except for digits, page numbers,
    and rows that stand apart at one height on many pages, if most of these rows repeat each other or a heading of the
    document (in capitals or shortened, too). Standing apart is not enough: each page of a list of questions may begin
    so.
    """
    pages = _without_repeated(pages)
    titles = _titles(pages)
    for last in (False, True):
        gone = {id(row) for row in _running(pages, titles, last)}
        pages = [[row for row in page if id(row) not in gone] for page in pages]
    return _without_repeated(pages)


def _without_repeated(pages: list[list[Row]]) -> list[list[Row]]:
    """Remove rows that repeat among the outermost rows of most pages, and page numbers there."""

    def shape(row: Row) -> str:
        return re.sub(r"\d+", "#", text(row))

    def edge(page: list[Row]) -> set[int]:
        return {i for i in range(len(page)) if i < ROWS or i >= len(page) - ROWS}

    usual = _usual_distance(pages)
    seen = Counter(s for page in pages for s in {shape(page[i]) for i in edge(page)})
    repeated = {s for s, n in seen.items() if n > 1 and n > len(pages) / 2}
    removed = [
        {i for i in edge(page) if shape(page[i]) in repeated or _PAGE_NUMBER.fullmatch(text(page[i]))}
        | {i for i in (0, len(page) - 1) if page and _ROMAN.fullmatch(text(page[i])) and _is_apart(page, i, usual)}
        for page in pages
    ]
    return [[row for i, row in enumerate(page) if i not in gone] for page, gone in zip(pages, removed, strict=True)]


def _running(pages: Sequence[list[Row]], titles: Sequence[str], last: bool) -> list[Row]:
    usual, body = _usual_distance(pages), body_size(pages)
    edges = [edge for i, page in enumerate(pages) if (edge := _edge(i, page, usual, body, last))]
    often = Counter(part for edge in edges for part in edge.says)
    known = {part for part in often if any(title.startswith(part) for title in titles)}
    shown = [any(often[part] > 1 for part in edge.says) for edge in edges]
    named = [not edge.bold and bool(edge.says & known) for edge in edges]
    filled = sum(map(bool, pages))
    found: list[Row] = []
    for edge, repeats in zip(edges, shown, strict=True):
        level = [shown[i] or named[i] for i, other in enumerate(edges) if edge.near(other)]
        is_level = len(level) >= max(FEWEST, SHARE * filled) and sum(level) * 2 > len(level)
        if is_level and (repeats or not edge.bold or edge.says & known):
            found += edge.rows
    return found


def _edge(index: int, page: list[Row], usual: float, body: float, last: bool) -> Edge | None:
    ordered = page[::-1] if last else page
    for count in range(1, min(ROWS, len(page)) + 1):
        rows = ordered[:count]
        if max(word.size for row in rows for word in row) > body * LARGER:
            return None
        if _is_apart(page, len(page) - count if last else count - 1, usual, below=not last):
            bold = all(word.bold for row in rows for word in row)
            return Edge(
                index, rows, bold, frozenset(filter(None, (_plain(part) for row in rows for part in _split(row))))
            )
    return None


def _is_apart(page: Sequence[Row], i: int, usual: float, below: bool | None = None) -> bool:
    """Return True if a row is distant from the next (or previous) row, in a smaller font, or alone."""
    other = i + 1 if (below if below is not None else i == 0) else i - 1
    if not 0 <= other < len(page):
        return True
    sizes = [max(word.size for word in page[n]) for n in (i, other)]
    return abs(page[i][0].foot - page[other][0].foot) > APART * usual or sizes[0] * LARGER < sizes[1]


def _usual_distance(pages: Sequence[list[Row]]) -> float:
    distances = [below[0].foot - above[0].foot for page in pages for above, below in pairwise(page)]
    return median(distances) if distances else 0.0


def body_size(pages: Sequence[list[Row]]) -> float:
    """Return the font size of most text; 0 without text."""
    sizes: Counter[float] = Counter()
    for word in (word for page in pages for row in page for word in row):
        sizes[word.size] += len(word.text)
    return sizes.most_common(1)[0][0] if sizes else 0.0


def _titles(pages: Sequence[list[Row]]) -> list[str]:
    """Return all texts in a heading's font, with wrapped lines joined."""
    body = body_size(pages)

    def style(row: Row) -> tuple[float, bool]:
        size, bold = max(word.size for word in row), all(word.bold for word in row)
        return (size, bold) if size > body * LARGER or (bold and size >= body) else (0.0, False)

    found = []
    for page in pages:
        for (size, _), rows in groupby(page, style):
            lines = [text(row) for row in rows] if size else []
            found += [*map(_plain, lines), _plain(" ".join(lines).replace("- ", ""))]
            found += [_plain(" ".join(lines[i:]).replace("- ", "")) for i in range(1, len(lines))]
    return found


def _split(row: Row) -> list[str]:
    """Split a row at wide spaces: chapter and section, or title and page number."""
    parts = [[row[0]]]
    for before, word in pairwise(row):
        if word.left - before.right > WIDE * word.size:
            parts.append([])
        parts[-1].append(word)
    return [text(part) for part in parts]


def _plain(line: str) -> str:
    """Return a line without number, case and punctuation; empty if it is only a number."""
    bare = line.strip(" .…")
    return _SEPARATORS.sub(" ", "" if _PAGE_NUMBER.fullmatch(bare) else _NUMBER.sub("", bare)).strip().casefold()
