"""Tables with a header, as Markdown: `| Size | Price |`."""

from collections.abc import Iterable, Iterator, Sequence

from bs4.element import Tag

CELL_CHARS = 200  #: a cell with more characters counts as several lines
SPAN = 50  #: most columns that a cell spans

Area = tuple[int, int, int, int]  #: first row and column of a merged cell, and the row and column after its last

_CELLS = ["td", "th"]
_BLOCKS = ["h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary", "button", "table", "li", "pre"]


def is_line(cell: Tag) -> bool:
    """Return True if a cell is one line of text."""
    return len(cell.get_text()) <= CELL_CHARS and cell.find(_BLOCKS) is None


def markdown_rows(table: Tag) -> list[str]:
    """Return caption and rows of a table as Markdown; empty if it has no header or a cell of several lines.

    A header names at least two columns (one alone is the title of a box). Markdown needs a header, and it names each
    value. A cell that spans several columns or rows is repeated in each.
    """
    found = [row for row in table.find_all("tr") if row.find_parent("table") is table]
    cells = [row.find_all(_CELLS, recursive=False) for row in found]
    whole = len(found) > 1 and all(is_line(cell) for row in cells for cell in row)
    named = [cell.name for cell in cells[0] if cell.get_text().strip()] if whole else []
    if len(named) < 2 or "td" in named:
        return []
    grid = list(_grid(cells))
    caption = table.find("caption", recursive=False)
    said = " ".join(caption.get_text().split()) if caption else ""
    return [*([said] if said else []), *markdown_lines(grid)]


def markdown_lines(grid: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of texts as a Markdown table with the first one as header, without blank rows."""
    width = max(map(len, grid))
    rows = ([text.replace("|", "\\|") for text in row] + [""] * (width - len(row)) for row in grid if any(row))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [*lines[:1], f"|{'---|' * width}", *lines[1:]]


def filled(grid: list[list[str]], merged: Iterable[Area]) -> list[list[str]]:
    """Repeat the text of each merged cell, if it is one line, in all that it stretches over, and return the grid.

    Raises:
        ValueError: if merged cells overlap, which no program allows.
    """
    left = sum(map(len, grid))
    for top, first, bottom, last in merged:
        text = "".join(cell for row in grid[top : top + 1] for cell in row[first : first + 1])
        for row in grid[top:bottom]:
            if len(text) <= CELL_CHARS:
                row[first:last] = [text] * len(row[first:last])
            left -= len(row[first:last])
        if left < 0:
            raise ValueError("its merged cells overlap")
    return grid


def _grid(rows: Sequence[Sequence[Tag]]) -> Iterator[list[str]]:
    above: dict[int, tuple[int, str]] = {}  # column → remaining rows and text of a cell that spans rows
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
    """Add the cells of rows above that extend into the next columns of this row."""
    while (column := len(texts)) in above:
        left, text = above.pop(column)
        texts.append(text)
        if left > 1:
            above[column] = (left - 1, text)


def _text(cell: Tag) -> str:
    for line in cell.find_all(["br", "p", "div"]):
        line.append(" ")
    return " ".join(cell.get_text().split())


def _span(cell: Tag, name: str, most: int) -> int:
    value = str(cell.get(name, ""))
    number = int(value[:9]) if value.isdecimal() else 0  # nine digits are too many anyway
    return min(number, most) or 1
