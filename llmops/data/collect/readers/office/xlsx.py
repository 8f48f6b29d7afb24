"""Excel workbooks: each sheet is a heading, and its rows are Markdown tables below it."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, time
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from llmops.data.collect.readers.decode import too_large
from llmops.data.collect.readers.office.archive import archived
from llmops.data.collect.readers.origin import Items, Origin, plain
from llmops.data.collect.readers.pages.html_tables import Area, filled, markdown_lines
from llmops.data.collect.readers.pages.sections import PageSection, documents

LARGEST_SHEET = 1 << 18  #: most cells of a sheet, from the first to the last used one

_MERGED = re.compile(rb'<(?:\w+:)?mergeCell ref="([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})"')
# A cell with a formula and no value. A formula whose value is an empty text has the type `str`.
_UNCALCULATED = re.compile(
    rb'<(?:\w+:)?c\b(?![^>]*t="str")[^>]*>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*'
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
                    detail = f"{formulas} formulas have no value yet; open the file in a spreadsheet program, and save it"
                    yield origin.dropped(f"{position}, formulas", "unreadable", detail)
                if (grid := _grid(sheet, _areas(xml))) is None:
                    detail = str(too_large(LARGEST_SHEET, "cells", "save it as CSV, and read that"))
                    yield origin.dropped(position, "unreadable", detail)
                    continue
                text = "\n\n".join(_block([*rows]) for full, rows in groupby(grid, any) if full)
                yield from documents([PageSection(position, 1, sheet.title, text)], origin)


def _areas(sheet: bytes) -> Iterator[Area]:
    from openpyxl.utils import range_boundaries

    for reference in _MERGED.findall(sheet):
        first, top, last, bottom = range_boundaries(reference.decode())
        yield top - 1, first - 1, bottom, last


def _grid(sheet: Any, merged: Iterable[Area]) -> list[list[str]] | None:
    """Return the texts of a sheet's cells; None if they are too many."""
    sheet.reset_dimensions()  # files state them wrongly
    rows: list[list[str]] = []
    last = width = 0
    for number, row in enumerate(sheet.iter_rows(), start=1):
        rows.append([_text(cell) for cell in row])
        if any(rows[-1]):
            last, width = number, max(width, len(row))
        if last * width > LARGEST_SHEET:
            return None
    return filled([[*row, *[""] * (width - len(row))] for row in rows[:last]], merged)


def _text(cell: Any) -> str:
    value = cell.value
    if isinstance(value, int | float) and not isinstance(value, bool):
        share = "%" in (cell.number_format or "")
        return f"{value * 100:.12g}%" if share else f"{value:.15g}"  # as Excel shows it
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return " ".join(plain(value).split())


def _block(rows: list[list[str]]) -> str:
    """Return rows without a blank one between them: titles, then a table without its empty columns."""
    titles = [*takewhile(lambda row: len({*filter(None, row)}) < 2, rows)]
    table = rows[len(titles) :]
    used = [index for index, column in enumerate(zip(*table, strict=True)) if any(column)]
    lines = [next(filter(None, row)) for row in titles]
    return "\n".join([*lines, *(markdown_lines([[row[index] for index in used] for row in table]) if table else [])])
