"""collect: read every source into documents; what cannot be read is quarantined with the place and the cause."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmops.config import Collect, Source
from llmops.data.files import matches
from llmops.data.readers import (
    chat_turns,
    delimited,
    html_pages,
    json_records,
    pdf_pages,
    plain_text,
    sql_rows,
    xml_records,
)
from llmops.data.readers.origin import Items, Origin
from llmops.errors import SourceError
from llmops.records import Document, Dropped, write_rows

log = logging.getLogger(__name__)

READERS: dict[str, Callable[[Path, Origin], Items]] = {
    "csv": delimited.read,
    "json": json_records.read,
    "jsonl": json_records.read_lines,
    "xml": xml_records.read,
    "html": html_pages.read,
    "pdf": pdf_pages.read,
    "chat": chat_turns.read,
    "text": plain_text.read,
}

SHOWN = 3  #: quarantined rows that a message quotes


def run(config: Collect, *, interval: str, out: Path) -> Mapping[str, Any]:
    """Read all sources of `config` for the data interval `interval` (an ISO date).

    Writes `documents.parquet` and `quarantine.parquet`.

    Raises:
        SourceError: naming every source that cannot be reached or yields no document, with the reasons.
    """
    if not config.sources:
        raise SourceError("There is no source to collect; list at least one under `collect: sources:`.")
    documents: list[Document] = []
    quarantine: list[Dropped] = []
    counts: dict[str, dict[str, int]] = {}
    problems: list[str] = []
    for number, source in enumerate(config.sources, start=1):
        good, bad, left_out = len(documents), len(quarantine), 0
        try:
            for item in read(source, config.root, interval):
                if isinstance(item, Document):
                    documents.append(item)
                elif isinstance(item, Dropped):
                    quarantine.append(item)
                else:
                    left_out += 1
        except SourceError as error:
            problems.append(str(error))
            continue
        found, lost = len(documents) - good, quarantine[bad:]
        counts[source.name] = {"documents": found, "quarantined": len(lost), "left_out": left_out}
        log.info(
            "source %d of %d, %s: %d documents, %d quarantined, %d left out by `where`",
            *(number, len(config.sources), source.name, found, len(lost), left_out),
        )
        if lost:
            log.warning("source %s: quarantined %s", source.name, _shown(lost))
        if not found:
            problems.append(_nothing(source, lost, left_out))
    write_rows(out / "quarantine.parquet", quarantine, Dropped)
    if problems:
        raise SourceError(" ".join(problems) + f" All quarantined rows: {out / 'quarantine.parquet'}.")
    write_rows(out / "documents.parquet", documents, Document)
    return {"documents": len(documents), "quarantined": len(quarantine), "sources": counts}


def read(source: Source, root: Path, interval: str) -> Items:
    """Yield what one source holds, file by file in the order of their names.

    Raises:
        SourceError: if no file matches, or the source's configuration does not fit what it holds.
    """
    location = source.location.replace("{date}", interval)
    if source.kind == "sql":
        yield from sql_rows.read(root, Origin(source, location, interval))
        return
    for path in matches(source, root, interval):
        origin = Origin(source, Path(os.path.relpath(path, root)).as_posix(), interval)
        try:
            yield from READERS[source.kind](path, origin)
        except OSError as error:
            yield origin.dropped("file", "unreadable", error.strerror or str(error))


def _nothing(source: Source, lost: list[Dropped], left_out: int) -> str:
    if lost:
        rules = ", ".join(f"{n} {rule}" for rule, n in sorted(Counter(row.rule for row in lost).items()))
        why = f"all {len(lost)} rows of it were quarantined ({rules}): {_shown(lost)}"
    elif left_out:
        why = f"its `where` leaves out all {left_out} rows"
    else:
        why = f"{source.location} holds no rows"
    return f"Source {source.name} yields no document: {why}."


def _shown(rows: list[Dropped]) -> str:
    shown = "; ".join(f"{row.location}, {row.position}: {row.rule}: {row.detail}" for row in rows[:SHOWN])
    return shown + (f"; and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
