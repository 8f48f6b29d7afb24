"""Lines that the pages of one source share at their edges: banners, calls to action, imprints without markup.

One page alone does not show this, so it works on the extracts of all pages of a source (`collect.extracts`), without
changing them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

MIN_PAGES = 3  #: least number of pages with a line at their edge
MIN_SHARE = 0.5  #: least share of all pages
EDGE_LINES = 5  #: lines checked at each edge

PageRows = Iterable[pa.RecordBatch]  #: rows of one page, in order; `rule` is empty for documents


def find_repeated_lines(pages: Iterable[PageRows]) -> frozenset[str]:
    """Return the lines that begin or end at least `MIN_PAGES` pages, and more than `MIN_SHARE` of all."""
    seen: Counter[str] = Counter()
    count = 0
    for page in pages:
        documents = [row for row in _list_rows(page) if not row["rule"]]
        count += 1
        if documents:
            seen.update({*_get_first_lines(documents[0])[:EDGE_LINES], *_get_last_lines(documents[-1])[-EDGE_LINES:]})
    return frozenset(line for line, n in seen.items() if n >= MIN_PAGES and n > count * MIN_SHARE)


def remove_lines(page: PageRows, repeated: frozenset[str]) -> list[pa.RecordBatch]:
    """Return the page without the lines of `repeated` at its beginning and end.

    A document that has no other lines is quarantined with the rule `boilerplate`. An answer that has no other lines is
    unchanged: the same answer to the same question on many pages is a duplicate, of which cleaning keeps one.
    """
    batches = list(page)
    rows = _list_rows(batches)
    documents = [row for row in rows if not row["rule"]]
    if documents:
        first, last = _get_first_lines(documents[0]), _get_last_lines(documents[-1])
        first_count = next((i for i, line in enumerate(first) if line not in repeated), len(first))
        last_count = next((i for i, line in enumerate(reversed(last)) if line not in repeated), len(last))
        if first_count:
            _cut_row(documents[0], first[first_count:], first[:first_count])
            last = last if documents[0] is not documents[-1] else last[first_count:]
        if last_count and not documents[-1]["rule"]:
            _cut_row(documents[-1], last[: len(last) - last_count], last[len(last) - last_count :])
    return [pa.RecordBatch.from_pylist(rows, schema=batches[0].schema)] if rows else []


def _cut_row(row: dict[str, Any], kept: list[str], removed: list[str]) -> None:
    name = "answer" if row["question"] else "text"
    if kept:
        row[name] = "\n".join(kept)
    elif name == "text":
        detail = "all of it also stands at the edge of most other pages of the source"
        row.update(rule="boilerplate", detail=detail, content="\n".join(removed))


def _get_first_lines(row: Mapping[str, Any]) -> list[str]:
    return [] if row["question"] else _get_last_lines(row)


def _get_last_lines(row: Mapping[str, Any]) -> list[str]:
    text: str = row["answer"] if row["question"] else row["text"]
    return text.split("\n")


def _list_rows(page: PageRows) -> list[dict[str, Any]]:
    return [row for batch in page for row in batch.to_pylist()]
