"""The running heads and feet of a PDF's pages: what repeats there, page numbers, and titles that change by chapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

from llmops.data.collect.readers.pages.pdf_layout import Row, text

ROWS = 2  #: rows of a page that are looked at, from each edge
APART = 1.4  #: distance from the next row, in usual ones, from which a row stands apart
LEVEL = 3.0  #: points by which running heads of two pages may differ in height
FEWEST, SHARE = 3, 0.25  #: pages that have a row apart on one level, at least; the first of a chapter often has none
LARGER = 1.05  #: no head is set in a font this much larger than that of most text
WIDE = 1.5  #: space between two words, in font sizes, that parts the chapter's title from the section's

_PAGE_NUMBER = re.compile(r"(?:page\s*)?[-–]?\s*\d{1,4}\s*(?:(?:/|of)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)
_ROMAN = re.compile(r"[ivxl]{1,7}|[IVXL]{1,7}")
_NUMBER = re.compile(r"^(?:[^\W\d]+\s+)?\d+(?:\.\d+)*[.:)]?\s+|\s+\d{1,4}$")
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Edge:
    """The rows at one edge of a page that stand apart from the others."""

    page: int  #: index
    rows: list[Row]  #: the outermost first
    bold: bool
    says: frozenset[str]  #: their parts without number and case

    def near(self, other: Edge) -> bool:
        return abs(self.rows[0][0].foot - other.rows[0][0].foot) <= LEVEL


def without_edges(pages: list[list[Row]]) -> list[list[Row]]:
    """The pages without their running heads and feet.

    These are, of the two rows at either edge: what is the same on most pages, digits aside; page numbers; and rows that
    stand apart from the text on one level of many pages, if most of those rows repeat a heading of the document, in
    capitals or shortened too, or each other. What only stands apart stays: each page of a list of questions may begin
    so.
    """
    pages = _without_repeated(pages)
    titles = _titles(pages)
    for last in (False, True):
        gone = {id(row) for row in _running(pages, titles, last)}
        pages = [[row for row in page if id(row) not in gone] for page in pages]
    return _without_repeated(pages)


def _without_repeated(pages: list[list[Row]]) -> list[list[Row]]:
    """The pages without what repeats among the outermost rows of most pages, and page numbers there."""

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
    """The rows of running titles at the head of the pages, or at their foot."""
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
    """What stands apart at the edge of a page, if anything does."""
    ordered = page[::-1] if last else page
    for count in range(1, min(ROWS, len(page)) + 1):
        rows = ordered[:count]
        if max(word.size for row in rows for word in row) > body * LARGER:
            return None
        if _is_apart(page, len(page) - count if last else count - 1, usual, below=not last):
            bold = all(word.bold for row in rows for word in row)
            return Edge(
                index, rows, bold, frozenset(filter(None, (_plain(part) for row in rows for part in _parts(row))))
            )
    return None


def _is_apart(page: Sequence[Row], i: int, usual: float, below: bool | None = None) -> bool:
    """Whether a row is at a distance from the one below it (or above it), or in a smaller font; alone it is apart."""
    other = i + 1 if (below if below is not None else i == 0) else i - 1
    if not 0 <= other < len(page):
        return True
    sizes = [max(word.size for word in page[n]) for n in (i, other)]
    return abs(page[i][0].foot - page[other][0].foot) > APART * usual or sizes[0] * LARGER < sizes[1]


def _usual_distance(pages: Sequence[list[Row]]) -> float:
    distances = [below[0].foot - above[0].foot for page in pages for above, below in pairwise(page)]
    return median(distances) if distances else 0.0


def body_size(pages: Sequence[list[Row]]) -> float:
    """The font size of most text; 0 without any."""
    sizes: Counter[float] = Counter()
    for word in (word for page in pages for row in page for word in row):
        sizes[word.size] += len(word.text)
    return sizes.most_common(1)[0][0] if sizes else 0.0


def _titles(pages: Sequence[list[Row]]) -> list[str]:
    """What is set as a heading, wrapped lines joined."""
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


def _parts(row: Row) -> list[str]:
    """A row cut where it leaves more space than between words: chapter and section, or title and page number."""
    parts = [[row[0]]]
    for before, word in pairwise(row):
        if word.left - before.right > WIDE * word.size:
            parts.append([])
        parts[-1].append(word)
    return [text(part) for part in parts]


def _plain(line: str) -> str:
    """A line without number, case and marks; empty if it is only a number."""
    bare = line.strip(" .…")
    return _SEPARATORS.sub(" ", "" if _PAGE_NUMBER.fullmatch(bare) else _NUMBER.sub("", bare)).strip().casefold()
