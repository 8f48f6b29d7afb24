"""Tables of HTML pages that have a header, in lines as Markdown has them: `| Size | Price |`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bs4.element import Tag

CELL_CHARS = 200  #: a cell with more characters holds several lines
SPAN = 50  #: most columns that a cell stretches over

_CELLS = ["td", "th"]
_BLOCKS = ["h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary", "button", "table", "li", "pre"]


def is_line(cell: Tag) -> bool:
    """Whether a cell is one line of text."""
    return len(cell.get_text()) <= CELL_CHARS and cell.find(_BLOCKS) is None


def markdown_rows(table: Tag) -> list[str]:
    """The caption and rows of a table as Markdown; none if its first row is no header, or a cell is more than a line.

    A header names two columns at least, or it is the title of a box. Markdown has no table without one, and by it each
    value has its name. A cell that stretches over several
    stands in each of them.
    """
    found = [row for row in table.find_all("tr") if row.find_parent("table") is table]
    cells = [row.find_all(_CELLS, recursive=False) for row in found]
    whole = len(found) > 1 and all(is_line(cell) for row in cells for cell in row)
    named = [cell.name for cell in cells[0] if cell.get_text().strip()] if whole else []
    if len(named) < 2 or "td" in named:
        return []
    grid = list(_grid(cells))
    width = max(map(len, grid))
    lines = [f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in grid if any(row)]
    caption = table.find("caption", recursive=False)
    said = " ".join(caption.get_text().split()) if caption else ""
    return [*([said] if said else []), lines[0], f"|{'---|' * width}", *lines[1:]]


def _grid(rows: Sequence[Sequence[Tag]]) -> Iterator[list[str]]:
    above: dict[int, tuple[int, str]] = {}  # column → in how many more rows its cell stands, and its text
    for row in rows:
        texts: list[str] = []
        for cell in row:
            _fill(texts, above)
            text, more = _text(cell), _span(cell, "rowspan", len(rows)) - 1
            for _ in range(_span(cell, "colspan", SPAN)):
                if more:
                    above[len(texts)] = (more, text)
                texts.append(text)
        _fill(texts, above)
        yield texts


def _fill(texts: list[str], above: dict[int, tuple[int, str]]) -> None:
    """Add the cells of rows above that reach into the next columns of this one."""
    while (column := len(texts)) in above:
        left, text = above.pop(column)
        texts.append(text)
        if left > 1:
            above[column] = (left - 1, text)


def _text(cell: Tag) -> str:
    for line in cell.find_all(["br", "p", "div"]):
        line.append(" ")
    return " ".join(cell.get_text().split()).replace("|", "\\|")


def _span(cell: Tag, name: str, most: int) -> int:
    value = str(cell.get(name, ""))
    number = int(value[:9]) if value.isdecimal() else 0  # what is longer is too many in any case
    return min(number, most) or 1
