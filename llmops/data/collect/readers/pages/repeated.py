"""Lines that the pages of one source share at their edges: banners, calls to action, imprints without markup.

One page alone does not show this, so it works on the extracts of all pages of a source (`collect.extracts`), without
changing them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

FEWEST = 3  #: least number of pages with a line at their edge
SHARE = 0.5  #: least share of all pages
LINES = 5  #: lines checked at each edge

Rows = Iterable[pa.RecordBatch]  #: rows of one page, in order; `rule` is empty for documents


def edges(pages: Iterable[Rows]) -> frozenset[str]:
    """Return the lines that begin or end at least `FEWEST` pages, and more than `SHARE` of them."""
    seen: Counter[str] = Counter()
    count = 0
    for page in pages:
        documents = [row for row in _rows(page) if not row["rule"]]
        count += 1
        if documents:
            seen.update({*_first_lines(documents[0])[:LINES], *_last_lines(documents[-1])[-LINES:]})
    return frozenset(line for line, n in seen.items() if n >= FEWEST and n > count * SHARE)


def without(page: Rows, repeated: frozenset[str]) -> list[pa.RecordBatch]:
    """Return the page without the lines of `repeated` at its beginning and end.

    A document that has no other lines is quarantined with the rule `boilerplate`. An answer that has no other lines is
    unchanged: the same answer to the same question on many pages is a duplicate, of which cleaning keeps one.
    """
    batches = list(page)
    rows = _rows(batches)
    documents = [row for row in rows if not row["rule"]]
    if documents:
        first, last = _first_lines(documents[0]), _last_lines(documents[-1])
        ahead = next((i for i, line in enumerate(first) if line not in repeated), len(first))
        behind = next((i for i, line in enumerate(reversed(last)) if line not in repeated), len(last))
        if ahead:
            _cut(documents[0], first[ahead:], first[:ahead])
            last = last if documents[0] is not documents[-1] else last[ahead:]
        if behind and not documents[-1]["rule"]:
            _cut(documents[-1], last[: len(last) - behind], last[len(last) - behind :])
    return [pa.RecordBatch.from_pylist(rows, schema=batches[0].schema)] if rows else []


def _cut(row: dict[str, Any], left: list[str], gone: list[str]) -> None:
    name = "answer" if row["question"] else "text"
    if left:
        row[name] = "\n".join(left)
    elif name == "text":
        detail = "all of it also stands at the edge of most other pages of the source"
        row.update(rule="boilerplate", detail=detail, content="\n".join(gone))


def _first_lines(row: Mapping[str, Any]) -> list[str]:
    return [] if row["question"] else _last_lines(row)


def _last_lines(row: Mapping[str, Any]) -> list[str]:
    text: str = row["answer"] if row["question"] else row["text"]
    return text.split("\n")


def _rows(page: Rows) -> list[dict[str, Any]]:
    return [row for batch in page for row in batch.to_pylist()]
