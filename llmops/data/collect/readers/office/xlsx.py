"""Excel workbooks: each sheet is a heading, and its rows are Markdown tables below it."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from llmops.data.collect.readers.decoding import LARGEST_RECORD, make_size_error
from llmops.data.collect.readers.office.archive_checks import check_archive
from llmops.data.collect.readers.origin import Items, Origin, format_value
from llmops.data.collect.readers.pages.html_tables import MergedArea, fill_merged_areas, format_table
from llmops.data.collect.readers.pages.sections import PageSection, make_documents

LARGEST_SHEET = 1 << 18  #: most cells of a sheet, from the first to the last used one
CELL_CHARS = (1 << 15) - 1  #: most characters of a cell, as in Excel; a file may name a longer text for each of them

Grid = list[list[str]]

_LITERAL_CHARS = re.compile(r'"[^"]*"|\\.|_.')  # characters of a number format that are shown as they are
_MERGED_CELLS = re.compile(rb'<(?:\w+:)?mergeCell ref="([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})"')
# A cell with a formula and no value. A formula whose value is an empty text has the type `str`.
_UNCALCULATED = re.compile(
    rb'<(?:\w+:)?c\b(?![^<>]*t="str")[^<>]*>\s*<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</(?:\w+:)?f>)\s*'
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)


@check_archive
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
                    yield origin.make_dropped(f"{position}, formulas", "unreadable", detail)
                if (grid := _read_grid(sheet, _find_merged_areas(xml))) is None:
                    detail = str(make_size_error(LARGEST_SHEET, "cells", "save it as CSV, and read that"))
                    yield origin.make_dropped(position, "unreadable", detail)
                    continue
                yield from make_documents([PageSection(position, 1, sheet.title, _format_sheet(grid))], origin)


def _find_merged_areas(sheet: bytes) -> Iterator[MergedArea]:
    from openpyxl.utils import range_boundaries

    for reference in _MERGED_CELLS.findall(sheet):
        first, top, last, bottom = range_boundaries(reference.decode())
        yield top - 1, first - 1, bottom, last


def _read_grid(sheet: Any, merged: Iterable[MergedArea]) -> Grid | None:
    """Return the texts of a sheet's cells; None if they are too many."""
    sheet.reset_dimensions()  # files state them wrongly
    rows: Grid = []
    width = size = 0
    for number, row in enumerate(sheet.iter_rows(), start=1):
        texts = [_format_cell(cell) for cell in row]
        used_width = max((column for column, text in enumerate(texts, start=1) if text), default=0)
        width = max(width, used_width)
        size += 1 + len(row) + sum(map(len, texts))
        if (used_width and number * width > LARGEST_SHEET) or size > LARGEST_RECORD:
            return None
        if used_width:
            rows += [*([] for _ in range(number - 1 - len(rows))), texts[:used_width]]
    return fill_merged_areas([[*row, *[""] * (width - len(row))] for row in rows], merged)


def _format_cell(cell: Any) -> str:
    value = cell.value
    if isinstance(value, int | float) and not isinstance(value, bool):
        number_format = cell.number_format or ""
        if "%" in _LITERAL_CHARS.sub("", number_format):
            return f"{value * 100:.12g}%"  # as Excel shows it
        return f"{value:.15g}{'%' if '%' in number_format else ''}"
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return " ".join(format_value(value)[:CELL_CHARS].split())


def _format_sheet(grid: Grid) -> str:
    """Return a sheet as tables, with the titles above each. A table ends at a blank row.

    Rows below a blank one belong to the table above if they have no other columns, and the first of them is no header.
    """
    blocks: list[tuple[Grid, Grid]] = []
    columns, has_numbers = set[int](), False  # of the last table
    for is_filled, group in groupby(grid, any):
        rows = [*group]
        titles = [*takewhile(lambda row: len({*filter(None, row)}) < 2, rows)]
        table = rows[len(titles) :]
        used_columns = {index for index, column in enumerate(zip(*table, strict=True)) if any(column)}
        if used_columns and used_columns <= columns and (_has_number(table[0]) or not (titles or has_numbers)):
            blocks[-1][1].extend(rows)
        elif is_filled:
            blocks.append((titles, table))
            columns, has_numbers = used_columns, False
            table = table[1:]
        has_numbers = has_numbers or any(map(_has_number, table))
    return "\n\n".join("\n".join(_format_block(*block)) for block in blocks)


def _has_number(row: list[str]) -> bool:
    return any(text[:1].isdigit() for text in row)


def _format_block(titles: Grid, table: Grid) -> Iterator[str]:
    for text, _ in groupby(next(filter(None, row)) for row in titles):  # a merged title is in each of its rows
        yield text
    if table:
        columns = [column for column in zip(*table, strict=True) if any(column)]
        yield from format_table([*zip(*columns, strict=True)])
