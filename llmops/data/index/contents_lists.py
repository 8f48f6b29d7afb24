"""Tables of contents among passages. They name every subject and answer nothing, so they stay out of the index."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq

from llmops.data.text.headings import PATH_SEPARATOR, remove_number
from llmops.data.text.words import split_words

MIN_TITLES = 4  #: least titles of other documents in a table of contents
MIN_SHARE = 0.5  #: least share of its words that these titles have
READ_BATCH = 4_096  #: documents per step of reading

_MARK = re.compile(r"\s*[-*•–]\s+")
_PAGE_NUMBER = re.compile(r"\s*(?:\.\s*){3,}\d*$")


def read_titles(folder: Path) -> frozenset[str]:
    """Return the headings and questions of all documents of a clean artifact, without numbers and case."""
    titles = set[str]()
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(READ_BATCH, columns=["context", "question"]):
            for row in batch.to_pylist():
                titles.update(map(_normalize_title, (*row["context"].split(PATH_SEPARATOR), row["question"])))
    return frozenset(titles - {""})


def is_table_of_contents(headings: str, text: str, titles: Collection[str]) -> bool:
    """Return whether a passage is mostly titles of other documents, one in a line.

    Args:
        headings: the path of headings over the passage; they are no titles of others.
        text: the passage.
        titles: of all documents, see `read_titles`.
    """
    own = {_normalize_title(heading) for heading in headings.split(PATH_SEPARATOR)}
    lines = [_normalize_title(line) for line in text.split("\n")]
    found = [line for line in lines if line in titles and line not in own]
    size = sum(len(split_words(line)) for line in lines)
    return len({*found}) >= MIN_TITLES and sum(len(split_words(line)) for line in found) >= MIN_SHARE * size


def _normalize_title(line: str) -> str:
    line = _PAGE_NUMBER.sub("", _MARK.sub("", line, count=1) if _MARK.match(line) else line)
    return " ".join(split_words(remove_number(line.strip()).casefold()))
