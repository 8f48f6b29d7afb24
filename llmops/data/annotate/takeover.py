"""What models were trained and tested on before there was a split ledger, taken into it once.

Release 0.1.0 kept none, so that what its champion has learned could be tested, and what it was tested on could train.
The artifacts of annotate behind its versions tell: each becomes a run of its own, in the order of their intervals.

What one version was trained on and another one tested, which 0.1.0 let happen, is taken for trained on. Of an example
that a template made, the values are read back through the template; an answer that was cut gives none.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops import artifacts
from llmops.artifacts import Record
from llmops.config import Annotate
from llmops.data.annotate.candidates import TABLES, Candidate
from llmops.data.annotate.examples import Candidates, entries
from llmops.data.annotate.ledger import Run, insert, scope_of
from llmops.data.annotate.names import note
from llmops.data.annotate.past import TEST, TRAIN, VALIDATION, Entry, Past, compared
from llmops.data.annotate.split import SPLIT, wording_id
from llmops.data.worktables import WorkTables, batched
from llmops.records import Document, Example, content_id, read_rows
from llmops.state.database import Database
from llmops.state.tables import split_runs

log = logging.getLogger(__name__)

_NUMBERS = ("id", "wording", "group")
_COLUMNS = [
    ("row", pl.Int64()),
    *((name, pl.UInt64()) for name in _NUMBERS),
    ("split", SPLIT),
    ("interval", pl.String()),
    ("said", pl.Boolean()),
]
_NONE = pl.DataFrame(schema=pl.Schema(_COLUMNS))  #: no items
_PLACEHOLDER = re.compile(r"\{[^{}]+\}")


def take_over(database: Database, model: str, config: Annotate, versions: Mapping[str, Path]) -> None:
    """Make runs of the ledger of what the versions of a model were made from, unless there are runs.

    Args:
        database: of the ledger.
        model: its name.
        config: the section of annotate: versions that were made for another test are left out.
        versions: name → its artifact of annotate. What is not there, or damaged, is named in a warning.
    """
    scope = scope_of(model, config.model_dump(mode="json"))
    records: dict[Path, Record] = {}
    for path in dict.fromkeys(versions.values()):
        names_of = " and ".join(name for name, made in versions.items() if made == path)
        if not artifacts.is_done(path) or artifacts.verify(path):
            log.warning(
                "What %s was trained and tested on (%s) is gone or damaged. The split ledger begins without it: that "
                "may be tested from now on, and trained on.", names_of, artifacts.ref(path),
            )  # fmt: skip
        elif scope_of(model, (record := artifacts.read_record(path)).config) != scope:
            log.warning(
                "The test of %s was another one: annotate has another split_by, seed, test, validation or "
                "test_sources now. The split ledger begins without what was trained and tested on there.", names_of,
            )  # fmt: skip
        else:
            records[path] = record
    order = sorted(records, key=lambda path: (records[path].interval, records[path].finished))
    salt = secrets.token_bytes(16)
    with TemporaryDirectory() as folder, WorkTables(Path(folder) / "work", TABLES) as work:
        made = _runs(order, records, config, work, salt)
    with database.change() as connection:
        if connection.execute(sa.select(split_runs.c.number).where(split_runs.c.scope == scope)).first():
            return  # another process was first
        for number, (path, new) in enumerate(made, start=1):
            run = Run(number, records[path].interval, path.name, "", salt)
            insert(connection, scope, run, new, by="upgrade")
    if made:
        log.info("the split ledger begins with what %s was trained and tested on", " and ".join(versions))


def _runs(
    order: Iterable[Path], records: Mapping[Path, Record], config: Annotate, work: WorkTables, salt: bytes
) -> list[tuple[Path, list[Entry]]]:
    """What is new in each artifact: as `entries`, without tests of what any of them has trained on."""
    candidates = Candidates(work, config)
    items = {path: _items(path, records[path], candidates) for path in order}
    used = pl.concat([_NONE, *(some.filter(pl.col("split") != TEST) for some in items.values())])
    spent = pl.col("wording").is_in(used["wording"].implode())
    if config.split_by == "group":
        spent |= pl.col("group").is_in(used["group"].implode())
    past, made = Past(), list[tuple[Path, list[Entry]]]()
    for number, (path, some) in enumerate(items.items(), start=1):
        new = past.new(some.filter((pl.col("split") != TEST) | ~spent))
        note(new, _documents(path.parents[1] / records[path].inputs["clean"]), work, compared(config), salt)
        made.append((path, [entry._replace(run=number) for entry in entries(new, work, config)]))
        past = past.after(new, number)
    return made


def _items(path: Path, record: Record, candidates: Candidates) -> pl.DataFrame:
    """The examples of an artifact, as `split_items` gives them."""
    frames = [_NONE]
    for split in (TRAIN, VALIDATION, TEST):
        for some in batched(read_rows(path / f"{split}.parquet", Example)):
            made = [_candidate(e, record.config.get("templates", {}).get(e.source, ())) for e in some]
            wordings = [wording_id(e.question, e.context) for e in some]
            frame = candidates.store(made, [e.group for e in some], wordings)
            said = pl.Series([c.said for c in made], dtype=pl.Boolean)
            decided = [pl.lit(split, SPLIT).alias("split"), pl.lit(record.interval).alias("interval")]
            frames.append(frame.with_columns(*decided, said=said))
    return pl.concat(frames)


def _candidate(example: Example, templates: Sequence[Mapping[str, Any]]) -> Candidate:
    e = example
    document = Document(
        id=content_id(e.source, e.location, e.position), source=e.source, location=e.location, position=e.position,
        licence=e.licence,
    )  # fmt: skip
    return Candidate(document, e.question, e.answer, e.context, e.group, _own(e, templates))


def _own(example: Example, templates: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The values of a row in the question and the answer that a template made of them; None if none did."""
    for number, template in enumerate(templates):
        asked = _values(template["question"], example.question)
        if asked is not None:
            answered = _values(template["answer"], example.answer) or ""
            return f"{example.source}.{number} {asked}", answered
    return None


def _values(template: str, text: str) -> str | None:
    pattern = "(.*?)".join(map(re.escape, _PLACEHOLDER.split(template)))
    match = re.fullmatch(pattern, text, re.DOTALL)
    return " ".join(match.groups()) if match else None


def _documents(clean: Path) -> Iterator[Document]:
    """Those of an artifact of clean; none if it is gone."""
    for part in sorted((clean / "documents").glob("*.parquet")):
        yield from read_rows(part, Document)
