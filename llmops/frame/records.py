"""The records that stages exchange, as Parquet files, and access to the chosen base model.

Every field of a record is a string, so that pyarrow, Spark, Feast and DuckDB read the same file without a cast.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmops.frame.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa  # not above: serving has no use for it

MESSAGE_LABEL = ", message "  #: precedes a chat message's number in a position
KEY_PREFIX = (
    "key "  #: prefix of a position that is the key of a table's row; other positions may belong to another row later
)
DATE_LABEL = ", as of "  #: precedes the interval in the position of an example from an earlier run
CLOSED_BOOK = "base_closed_book"  #: the base without documents beside itself with them, in evaluations and answers
OUT_OF_SCOPE_FILE = "out_of_scope.parquet"  #: file of annotate with texts of no label; split: `validation` or `test`
_LICENCE_AND = " AND "  #: SPDX' word between licences


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One unit of raw material: a row, a page section, a pair of chat turns.

    It has a question and its answer, a question and `same_as` (another wording of a known question), or only fields and
    text from which `annotate` makes examples.
    """

    id: str  #: hash of source, location and position: stable between runs
    source: str  #: name of the source in the configuration
    location: str  #: file path relative to the source, or table
    position: str  #: "row 12", "page 3", "line 7", "section 2"
    text: str = ""  #: free text, or the fields of a structured row as "name: value" lines
    question: str = ""
    answer: str = ""
    context: str = ""
    same_as: str = ""  #: a question this document's question is another wording of
    group: str = ""  #: topic key; examples of one group fall on one side of a split
    fields: str = "{}"  #: JSON object: the structured row as read, all values strings
    licence: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A row that was dropped, with the reason. Nothing is lost silently."""

    id: str
    source: str
    location: str
    position: str
    rule: str  #: name of the rule, or "malformed", "encoding", "unreadable", "limit"
    detail: str  #: the exact problem
    content: str  #: the readable part of the row


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One annotated training or test item."""

    id: str  #: `input_id` in Feast: hash of context, question and answer
    question: str
    answer: str
    context: str = ""
    group: str
    split: str  #: train | validation | test
    source: str
    location: str
    position: str
    licence: str = ""
    interval: str = ""  #: ISO date of the data interval in which it was first made


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document that retrieval finds, without personal data and secrets."""

    id: str  #: hash of its document, its headings and its text: stable between runs
    document: str  #: id of its document
    source: str
    location: str
    position: str
    title: str = ""  #: of the page, or what the document asks
    headings: str = ""  #: the path of headings that it stands under, the outermost first
    text: str
    licence: str = ""
    part: str = "1"  #: its number within its document, from 1


def add_date(position: str, interval: str) -> str:
    """Add the date to a row's position, because 'row 12' may be another row tomorrow.

    The key of a table's row is unchanged: it stays with the row.
    """
    if is_row_key(position) or DATE_LABEL in position:
        return position
    row, label, number = position.partition(MESSAGE_LABEL)
    return f"{row}{DATE_LABEL}{interval}{label}{number}"


def remove_message_number(position: str) -> str:
    """Return a position without its message number. All messages of a conversation count as one person's."""
    return position.partition(MESSAGE_LABEL)[0]


def is_row_key(position: str) -> bool:
    """Return True if a position is the key of a table's row. Other positions are numbers that change owner."""
    return position.startswith(KEY_PREFIX)


def join_licences(first: str, second: str) -> str:
    """Return the SPDX licence of a text made of two texts (`MIT AND CC-BY-4.0`); empty if one has none."""
    if not first or not second:
        return ""
    licences = (*second.split(_LICENCE_AND), *first.split(_LICENCE_AND))
    known = {licence.casefold(): licence for licence in licences}
    return _LICENCE_AND.join(sorted(known.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding of a governance scan."""

    scan: str  #: pii | secrets | output | …
    rule: str  #: entity or rule name, e.g. "EMAIL_ADDRESS"
    severity: str  #: low | medium | high
    where: str  #: the item: an id, or a file and row
    detail: str  #: never the secret or personal datum itself
    owasp: str = ""  #: e.g. "LLM02:2025 sensitive information disclosure"


AnyRow = TypeVar("AnyRow", Document, DroppedRow, Example, Finding)


def make_content_id(*parts: str) -> str:
    """Return a stable 16-hex-digit identifier of the parts (SHA-256 over length-prefixed UTF-8)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def get_schema(kind: type[AnyRow]) -> pa.Schema:
    """Return the Arrow schema of a record type: one non-null string column per field, in order."""
    import pyarrow as pa

    return pa.schema([pa.field(f.name, pa.string(), nullable=False) for f in fields(kind)])


def write_rows(path: Path, rows: Iterable[AnyRow], kind: type[AnyRow]) -> int:
    """Write records to one Parquet file, atomically, and return the number of rows."""
    import pyarrow as pa

    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=get_schema(kind))
    return write_table(path, table)


def write_table(path: Path, table: pa.Table) -> int:
    """Write an Arrow table to one Parquet file, atomically, and return the number of rows."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
    return int(table.num_rows)


def read_rows(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """Read the records of one Parquet file, or of a folder of them (as from Spark), in file order."""
    import pyarrow.parquet as pq

    columns: Sequence[str] = [f.name for f in fields(kind)]
    items: list[dict[str, Any]] = pq.read_table(path, columns=list(columns)).to_pylist()
    return [kind(**item) for item in items]


def read_selection(select: Path) -> dict[str, Any]:
    """Return the content of a select artifact's `selection.json`: model, revision, licence, path and candidates."""
    return dict(json.loads((select / "selection.json").read_text(encoding="utf-8")))


def get_base_path(select: Path) -> str:
    """Return the folder of the base model that a select artifact chose, for `from_pretrained`.

    Raises:
        ArtifactError: if it is gone, with the remedy.
    """
    chosen = read_selection(select)
    folder = select / chosen["path"]
    if not folder.is_dir():
        remedy = (
            "put the folder back"
            if chosen["revision"] == "local"
            else (f"get it again with `hf download {chosen['model']} --revision {chosen['revision']}`")
        )
        raise ArtifactError(
            f"The base model {chosen['model']} at revision {chosen['revision']}, which {select} chose, is not at "
            f"{folder} any more; {remedy}, then delete {select} and run `llmops run select`."
        )
    return str(folder)
