"""Tables with a header, as Markdown: `| Size | Price |`."""

from collections.abc import Iterable, Iterator, Sequence

from bs4.element import Tag

CELL_CHARS = 200  #: a cell with more characters counts as several lines
MAX_SPAN = 50  #: most columns that a cell spans

MergedArea = tuple[int, int, int, int]  #: first row and column of a merged cell, and the row and column after its last

_CELLS = ["td", "th"]
_MULTILINE_TAGS = ["h1", "h2", "h3", "h4", "h5", "h6", "dt", "summary", "button", "table", "li", "pre"]


def is_single_line(cell: Tag) -> bool:
    """Return True if a cell is one line of text."""
    return len(cell.get_text()) <= CELL_CHARS and cell.find(_MULTILINE_TAGS) is None


def convert_table(table: Tag) -> list[str]:
    """Return caption and rows of a table as Markdown; empty if it has no header or a cell of several lines.

    A header names at least two columns (one alone is the title of a box). Markdown needs a header, and it names each
    value. A cell that spans several columns or rows is repeated in each.
    """
    rows = [row for row in table.find_all("tr") if row.find_parent("table") is table]
    cells = [row.find_all(_CELLS, recursive=False) for row in rows]
    has_single_lines = len(rows) > 1 and all(is_single_line(cell) for row in cells for cell in row)
    header_tags = [cell.name for cell in cells[0] if cell.get_text().strip()] if has_single_lines else []
    if len(header_tags) < 2 or "td" in header_tags:
        return []
    grid = list(_build_grid(cells))
    caption = table.find("caption", recursive=False)
    caption_text = " ".join(caption.get_text().split()) if caption else ""
    return [*([caption_text] if caption_text else []), *format_table(grid)]


def format_table(grid: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of texts as a Markdown table with the first one as header, without blank rows."""
    width = max(map(len, grid))
    rows = ([text.replace("|", "\\|") for text in row] + [""] * (width - len(row)) for row in grid if any(row))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [*lines[:1], f"|{'---|' * width}", *lines[1:]]


def fill_merged_areas(grid: list[list[str]], merged: Iterable[MergedArea]) -> list[list[str]]:
    """Repeat the text of each merged cell, if it is one line, in all that it stretches over, and return the grid.

    Raises:
        ValueError: if merged cells overlap, which no program allows.
    """
    cells_left = sum(map(len, grid))
    for top, first, bottom, last in merged:
        text = "".join(cell for row in grid[top : top + 1] for cell in row[first : first + 1])
        for row in grid[top:bottom]:
            if len(text) <= CELL_CHARS:
                row[first:last] = [text] * len(row[first:last])
            cells_left -= len(row[first:last])
        if cells_left < 0:
            raise ValueError("its merged cells overlap")
    return grid


def _build_grid(rows: Sequence[Sequence[Tag]]) -> Iterator[list[str]]:
    spanning: dict[int, tuple[int, str]] = {}  # column → remaining rows and text of a cell that spans rows
    for row in rows:
        texts: list[str] = []
        for cell in row:
            _fill_spans(texts, spanning)
            text, rows_left = _read_cell(cell), _read_span(cell, "rowspan", len(rows)) - 1
            for _ in range(_read_span(cell, "colspan", MAX_SPAN)):
                if rows_left:
                    spanning[len(texts)] = (rows_left, text)
                texts.append(text)
        _fill_spans(texts, spanning)
        yield texts


def _fill_spans(texts: list[str], spanning: dict[int, tuple[int, str]]) -> None:
    """Add the cells of rows above that extend into the next columns of this row."""
    while (column := len(texts)) in spanning:
        rows_left, text = spanning.pop(column)
        texts.append(text)
        if rows_left > 1:
            spanning[column] = (rows_left - 1, text)


def _read_cell(cell: Tag) -> str:
    for line in cell.find_all(["br", "p", "div"]):
        line.append(" ")
    return " ".join(cell.get_text().split())


def _read_span(cell: Tag, name: str, limit: int) -> int:
    value = str(cell.get(name, ""))
    number = int(value[:9]) if value.isdecimal() else 0  # nine digits are too many anyway
    return min(number, limit) or 1
