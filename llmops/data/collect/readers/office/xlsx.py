"""Excel workbooks: each sheet is a heading, and its rows are Markdown tables below it."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from llmops.data.collect.readers.decode import LARGEST, too_large
from llmops.data.collect.readers.office.archive import archived
from llmops.data.collect.readers.origin import Items, Origin, plain
from llmops.data.collect.readers.pages.html_tables import Area, filled, markdown_lines
from llmops.data.collect.readers.pages.sections import PageSection, documents

LARGEST_SHEET = 1 << 18  #: most cells of a sheet, from the first to the last used one
CELL_CHARS = (1 << 15) - 1  #: most characters of a cell, as in Excel; a file may name a longer text for each of them

Rows = list[list[str]]

_LITERAL = re.compile(r'"[^"]*"|\\.|_.')  # characters of a number format that are shown as they are
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell ref="([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})"')
# A cell with a formula and no value. A formula whose value is an empty text has the type `str`.
_UNCALCULATED = re.compile(
    rb'<(?:\w+:)?c\b(?![^<>]*t="str")[^<>]*>\s*<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</(?:\w+:)?f>)\s*'
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)


@archived
def read(path: Path, origin: Origin) -> Items:
    """Yield one item per visible sheet, in parts if it is long. A sheet with too many cells is quarantined alone.

    Formulas are the values that were last calculated. Sheets are streamed, so that links, merged cells and formats of a
    million rows take no memory.
    """
    from openpyxl import load_workbook

    with path.open("rb") as file, ZipFile(path) as archive:
        book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
        for sheet in book.worksheets:
            if sheet.sheet_state == "visible":
                position = f"sheet {sheet.title}"
                xml = archive.read(sheet._worksheet_path)
                if formulas := len(_UNCALCULATED.findall(xml)):
                    detail = f"without a value yet: {formulas}; open the file in a spreadsheet program, and save it"
                    yield origin.dropped(f"{position}, formulas", "unreadable", detail)
                if (grid := _grid(sheet, _areas(xml))) is None:
                    detail = str(too_large(LARGEST_SHEET, "cells", "save it as CSV, and read that"))
                    yield origin.dropped(position, "unreadable", detail)
                    continue
                yield from documents([PageSection(position, 1, sheet.title, _page(grid))], origin)


def _areas(sheet: bytes) -> Iterator[Area]:
    from openpyxl.utils import range_boundaries

    for reference in _MERGED.findall(sheet):
        first, top, last, bottom = range_boundaries(reference.decode())
        yield top - 1, first - 1, bottom, last


def _grid(sheet: Any, merged: Iterable[Area]) -> Rows | None:
    """Return the texts of a sheet's cells; None if they are too many."""
    sheet.reset_dimensions()  # files state them wrongly
    rows: Rows = []
    width = size = 0
    for number, row in enumerate(sheet.iter_rows(), start=1):
        texts = [_text(cell) for cell in row]
        used = max((at for at, text in enumerate(texts, start=1) if text), default=0)
        width = max(width, used)
        size += 1 + len(row) + sum(map(len, texts))
        if (used and number * width > LARGEST_SHEET) or size > LARGEST:
            return None
        if used:
            rows += [*([] for _ in range(number - 1 - len(rows))), texts[:used]]
    return filled([[*row, *[""] * (width - len(row))] for row in rows], merged)


def _text(cell: Any) -> str:
    value = cell.value
    if isinstance(value, int | float) and not isinstance(value, bool):
        form = cell.number_format or ""
        if "%" in _LITERAL.sub("", form):
            return f"{value * 100:.12g}%"  # as Excel shows it
        return f"{value:.15g}{'%' if '%' in form else ''}"
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return " ".join(plain(value)[:CELL_CHARS].split())


def _page(grid: Rows) -> str:
    """Return a sheet as tables, with the titles above each. A table ends at a blank row.

    Rows below a blank one belong to the table above if they have no other columns, and the first of them is no header.
    """
    blocks: list[tuple[Rows, Rows]] = []
    columns, numbers = set[int](), False  # of the last table
    for full, group in groupby(grid, any):
        rows = [*group]
        titles = [*takewhile(lambda row: len({*filter(None, row)}) < 2, rows)]
        table = rows[len(titles) :]
        used = {index for index, column in enumerate(zip(*table, strict=True)) if any(column)}
        if used and used <= columns and (_has_number(table[0]) or not (titles or numbers)):
            blocks[-1][1].extend(rows)
        elif full:
            blocks.append((titles, table))
            columns, numbers = used, False
            table = table[1:]
        numbers = numbers or any(map(_has_number, table))
    return "\n\n".join("\n".join(_lines(*block)) for block in blocks)


def _has_number(row: list[str]) -> bool:
    return any(text[:1].isdigit() for text in row)


def _lines(titles: Rows, table: Rows) -> Iterator[str]:
    for text, _ in groupby(next(filter(None, row)) for row in titles):  # a merged title is in each of its rows
        yield text
    if table:
        columns = [column for column in zip(*table, strict=True) if any(column)]
        yield from markdown_lines([*zip(*columns, strict=True)])
