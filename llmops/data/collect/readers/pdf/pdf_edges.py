"""Running heads and feet of a PDF's pages: repeated rows, page numbers, and titles that change by chapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

from llmops.data.collect.readers.pdf.pdf_layout import Row, join_words

EDGE_ROWS = 2  #: rows checked at each edge of a page
APART_FACTOR = 1.4  #: distance to the next row, relative to the usual one, from which a row stands apart
HEIGHT_TOLERANCE = 3.0  #: points by which running heads of two pages may differ in height
MIN_PAGES, MIN_SHARE = 3, 0.25  #: least number and share of pages with such a row; first pages often have none
HEAD_FACTOR = 1.05  #: a head's font is not larger than the body's by more than this factor
WIDE_SPACE = 1.5  #: space between two words, in font sizes, that separates the chapter's title from the section's

_PAGE_NUMBER = re.compile(r"(?:page\s*)?[-–]?\s*\d{1,4}\s*(?:(?:/|of)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)
_ROMAN = re.compile(r"[ivxl]{1,7}|[IVXL]{1,7}")
_NUMBER = re.compile(r"^(?:[^\W\d]+\s+)?\d+(?:\.\d+)*[.:)]?\s+|\s+\d{1,4}$")
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class PageEdge:
    """The rows at one edge of a page that stand apart from the rest."""

    page: int  #: index
    rows: list[Row]  #: outermost first
    bold: bool
    parts: frozenset[str]  #: parts of the rows, without numbers and case

    def is_near(self, other: PageEdge) -> bool:
        """Return True if both edges are at the same height of their pages."""
        return abs(self.rows[0][0].bottom - other.rows[0][0].bottom) <= HEIGHT_TOLERANCE


def remove_edges(pages: list[list[Row]]) -> list[list[Row]]:
    """Return the pages without running heads and feet.

    Two rows at either edge are checked. Removed are rows that are equal on most pages except for digits, page numbers,
    and rows that stand apart at one height on many pages, if most of these rows repeat each other or a heading of the
    document (in capitals or shortened, too). Standing apart is not enough: each page of a list of questions may begin
    so.
    """
    pages = _remove_repeated(pages)
    titles = _list_titles(pages)
    for at_foot in (False, True):
        removed = {id(row) for row in _find_running_rows(pages, titles, at_foot)}
        pages = [[row for row in page if id(row) not in removed] for page in pages]
    return _remove_repeated(pages)


def _remove_repeated(pages: list[list[Row]]) -> list[list[Row]]:
    """Remove rows that repeat among the outermost rows of most pages, and page numbers there.

    Digits are not compared. So rows of a table are alike, too, but most of them are not at an edge.
    """

    def get_shape(row: Row) -> str:
        return re.sub(r"\d+", "#", join_words(row))

    def list_edges(page: list[Row]) -> set[int]:
        return {i for i in range(len(page)) if i < EDGE_ROWS or i >= len(page) - EDGE_ROWS}

    spacing = _compute_spacing(pages)
    seen = Counter(s for page in pages for s in {get_shape(page[i]) for i in list_edges(page)})
    inner = Counter(get_shape(row) for page in pages for row in page[EDGE_ROWS:-EDGE_ROWS])
    repeated = {s for s, n in seen.items() if n > max(1, len(pages) / 2, inner[s])}
    removed_rows = [
        {i for i in list_edges(page) if get_shape(page[i]) in repeated or _PAGE_NUMBER.fullmatch(join_words(page[i]))}
        | {
            i
            for i in (0, len(page) - 1)
            if page and _ROMAN.fullmatch(join_words(page[i])) and _is_apart(page, i, spacing)
        }
        for page in pages
    ]
    return [
        [row for i, row in enumerate(page) if i not in removed]
        for page, removed in zip(pages, removed_rows, strict=True)
    ]


def _find_running_rows(pages: Sequence[list[Row]], titles: Sequence[str], at_foot: bool) -> list[Row]:
    spacing, body = _compute_spacing(pages), _compute_body_size(pages)
    edges = [edge for i, page in enumerate(pages) if (edge := _find_edge(i, page, spacing, body, at_foot))]
    counts = Counter(part for edge in edges for part in edge.parts)
    title_parts = {part for part in counts if any(title.startswith(part) for title in titles)}
    are_repeated = [any(counts[part] > 1 for part in edge.parts) for edge in edges]
    are_titles = [not edge.bold and bool(edge.parts & title_parts) for edge in edges]
    page_count = sum(map(bool, pages))
    result: list[Row] = []
    for edge, is_repeated in zip(edges, are_repeated, strict=True):
        same_level = [are_repeated[i] or are_titles[i] for i, other in enumerate(edges) if edge.is_near(other)]
        is_running = len(same_level) >= max(MIN_PAGES, MIN_SHARE * page_count) and sum(same_level) * 2 > len(same_level)
        if is_running and (is_repeated or not edge.bold or edge.parts & title_parts):
            result += edge.rows
    return result


def _find_edge(index: int, page: list[Row], spacing: float, body: float, at_foot: bool) -> PageEdge | None:
    ordered = page[::-1] if at_foot else page
    for count in range(1, min(EDGE_ROWS, len(page)) + 1):
        rows = ordered[:count]
        if max(word.size for row in rows for word in row) > body * HEAD_FACTOR:
            return None
        if _is_apart(page, len(page) - count if at_foot else count - 1, spacing, below=not at_foot):
            is_bold = all(word.bold for row in rows for word in row)
            parts = (_normalize_title(part) for row in rows for part in _split_row(row))
            return PageEdge(index, rows, is_bold, frozenset(filter(None, parts)))
    return None


def _is_apart(page: Sequence[Row], i: int, spacing: float, below: bool | None = None) -> bool:
    """Return True if a row is distant from the next (or previous) row, in a smaller font, or alone."""
    other = i + 1 if (below if below is not None else i == 0) else i - 1
    if not 0 <= other < len(page):
        return True
    sizes = [max(word.size for word in page[n]) for n in (i, other)]
    return abs(page[i][0].bottom - page[other][0].bottom) > APART_FACTOR * spacing or sizes[0] * HEAD_FACTOR < sizes[1]


def _compute_spacing(pages: Sequence[list[Row]]) -> float:
    distances = [below[0].bottom - above[0].bottom for page in pages for above, below in pairwise(page)]
    return median(distances) if distances else 0.0


def _compute_body_size(pages: Sequence[list[Row]]) -> float:
    """Return the font size of most text; 0 without text."""
    sizes: Counter[float] = Counter()
    for word in (word for page in pages for row in page for word in row):
        sizes[word.size] += len(word.text)
    return sizes.most_common(1)[0][0] if sizes else 0.0


def _list_titles(pages: Sequence[list[Row]]) -> list[str]:
    """Return all texts in a heading's font, with wrapped lines joined."""
    body = _compute_body_size(pages)

    def get_style(row: Row) -> tuple[float, bool]:
        size, bold = max(word.size for word in row), all(word.bold for word in row)
        return (size, bold) if size > body * HEAD_FACTOR or (bold and size >= body) else (0.0, False)

    titles = []
    for page in pages:
        for (size, _), rows in groupby(page, get_style):
            lines = [join_words(row) for row in rows] if size else []
            titles += [*map(_normalize_title, lines), _normalize_title(" ".join(lines).replace("- ", ""))]
            titles += [_normalize_title(" ".join(lines[i:]).replace("- ", "")) for i in range(1, len(lines))]
    return titles


def _split_row(row: Row) -> list[str]:
    """Split a row at wide spaces: chapter and section, or title and page number."""
    parts = [[row[0]]]
    for before, word in pairwise(row):
        if word.left - before.right > WIDE_SPACE * word.size:
            parts.append([])
        parts[-1].append(word)
    return [join_words(part) for part in parts]


def _normalize_title(line: str) -> str:
    """Return a line without number, case and punctuation; empty if it is only a number."""
    stripped = line.strip(" .…")
    return (
        _SEPARATORS.sub(" ", "" if _PAGE_NUMBER.fullmatch(stripped) else _NUMBER.sub("", stripped)).strip().casefold()
    )
