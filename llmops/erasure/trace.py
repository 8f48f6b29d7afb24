"""Find a person's rows in everything that was made of the sources.

Where rows stand raw, they are found by their texts. `annotate` redacts e-mail addresses and the like, so from there on
they are followed by descent, along the inputs that the artifacts' records name: by place (source, location, position)
and id into clean and annotate, by the ids of the examples made of them into features, evaluate, govern and the model
versions. A place alone would not do: row 12 of today's file may be another person's than row 12 of yesterday's. What
the test carries from earlier days is known by its id alone, also from the split ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmops import artifacts
from llmops.artifacts import Record
from llmops.data.text.comparable import comparable
from llmops.erasure.subject import Subject
from llmops.records import Document, Dropped, is_key, without_message
from llmops.retention.plan import ROWS

#: Columns that say what kind of row it is or who is in charge, not what it holds.
NAMES = {
    "id",
    "input_id",
    "source",
    "licence",
    "owner",
    "split",
    "model",
    "rule",
    "scan",
    "severity",
    "owasp",
    "interval",
}

Place = tuple[str, str, str]  #: source, location, position


@dataclass(slots=True)
class Known:
    """What a person's rows are recognised by in the artifacts that were made of them."""

    ids: set[str] = field(default_factory=set)  #: of documents and examples
    places: set[Place] = field(default_factory=set)

    def __ior__(self, other: Known) -> Known:
        self.ids |= other.ids
        self.places |= other.places
        return self

    def add(self, row: Mapping[str, str], *, place: bool) -> None:
        """Know a row by its id and, if asked, by its place."""
        self.ids |= {row[name] for name in ("id", "input_id") if row.get(name)}
        if place and "location" in row:
            self.places.add((row["source"], row["location"], without_message(row["position"])))

    def rows(self, columns: Mapping[str, Sequence[str]]) -> set[int]:
        """The positions of the known rows in some columns of a file."""
        found: set[int] = set()
        for name in ("id", "input_id"):
            found |= {row for row, value in enumerate(columns.get(name, ())) if value in self.ids}
        if "location" in columns:
            places = zip(columns["source"], columns["location"], map(without_message, columns["position"]), strict=True)
            found |= {row for row, place in enumerate(places) if place in self.places}
        if "where" in columns:  # of a finding: a place in words, or an example's id after what it stands in
            words = {f"{source}: {location}, {position}" for source, location, position in self.places}
            for row, where in enumerate(columns["where"]):
                if without_message(where) in words or not self.ids.isdisjoint(where.split()):
                    found.add(row)
        return found


@dataclass(frozen=True, slots=True)
class PersonRow:
    """A person's row in a Parquet or Arrow file."""

    number: int  #: in the file, from 0
    named: bool  #: whether its own texts name the person; if not, it was recognised by its origin
    values: dict[str, str]  #: its text columns


@dataclass(slots=True)
class Found:
    """All of a person's rows."""

    files: dict[Path, list[PersonRow]] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)  #: "stage/fingerprint" → what is known from there on
    notes: list[str] = field(default_factory=list)  #: what could not be followed

    def of(self, refs: Iterable[str]) -> Known:
        """What is known from some artifacts on."""
        together = Known()
        for ref in refs:
            together |= self.known.get(ref, Known())
        return together


def trace(
    root: Path, stages: Iterable[str], subject: Subject, examples: Iterable[str] = (), documents: Iterable[str] = ()
) -> Found:
    """The person's rows in all finished artifacts.

    Args:
        root: the folder of the artifacts.
        stages: their stages, each after its inputs.
        subject: the person.
        examples: ids of examples that are known to be theirs, though what they were made of may be gone.
        documents: ids of documents that are, though they may not name them.
    """
    found = Found()
    theirs = Known(set(documents))
    carried = Known(set(examples))  # what annotate made of them, which later artifacts hold though no source yields it
    for stage in stages:
        done = [(artifacts.read_record(p), p) for p in (root / stage).glob("*") if artifacts.is_done(p)]
        before = -1
        while before < len(carried.ids):  # what was made again is newer than what carries its examples
            before = len(carried.ids)
            for record, folder in sorted(done, key=lambda one: (one[0].finished, one[1])):
                _follow(root, record, folder, subject, carried, theirs, found)
    return found


def _follow(
    root: Path, record: Record, folder: Path, subject: Subject, carried: Known, theirs: Known, found: Found
) -> None:
    """Add the person's rows in an artifact to `found`, and what it hands on to other ones of annotate to `carried`."""
    ref, inputs = artifacts.ref(folder), record.inputs
    refs = [source for name, source in inputs.items() if name != "champion"]
    if lost := [source for source in refs if source not in found.known and not _never_had_rows(root / source)]:
        note = f"{ref}: its input {lost[0]} is gone, so that no row could be followed from there"
        found.notes += [] if note in found.notes else [note]
    known = found.of(refs)
    if record.stage == "annotate":
        known.ids |= carried.ids
    if not refs:
        known.ids |= theirs.ids
    known = find_rows(folder, subject, known, found)
    if "clean" in inputs and (places := _reworded(root / inputs["clean"], folder, found)):
        known.places |= places
        known = find_rows(folder, subject, known, found)
    found.known[ref] = known
    if record.stage == "annotate":
        carried |= known


def _never_had_rows(path: Path) -> bool:
    """Whether the data of an artifact is gone and nothing could have been followed through it."""
    return artifacts.is_gone(path) and path.parent.name not in ROWS


def find_rows(folder: Path, subject: Subject, known: Known, found: Found) -> Known:
    """Add the person's rows in the Parquet and Arrow files of a folder to `found`.

    Returns `known` together with the ids and places of these rows.
    """
    own = Known(set(known.ids), set(known.places))
    again = True
    while again:
        again = False
        for path in row_files(folder):
            if rows := list(matching_rows(path, subject, own)):
                found.files[path] = rows
            before = set(own.places)
            for row in rows:  # one that is known by its id alone may say the same and be somebody else's
                own.add(row.values, place=row.named or subject.named_in_location(row.values.get("location", "")))
            # A new place may be that of earlier rows too, which do not name the person themselves: other messages of
            # the conversation, or older versions of the database row. So the files are read again.
            again = again or own.places != before
    return own


def row_files(folder: Path) -> list[Path]:
    """The whole Parquet and Arrow files below a folder, sorted; the file itself, if it is one."""
    if folder.is_file():
        return [folder]
    found = (path for path in folder.rglob("*") if path.suffix in (".parquet", ".arrow"))
    return sorted(path for path in found if not path.name.startswith("."))


def matching_rows(path: Path | pa.NativeFile, subject: Subject, known: Known) -> Iterator[PersonRow]:
    """The person's rows in one Parquet or Arrow file, in order."""
    start = 0
    for batch in text_batches(path):
        names = batch.schema.names
        columns = {name: ["" if v is None else str(v) for v in batch.column(name).to_pylist()] for name in names}
        named: set[int] = set()
        for name in (n for n in names if n not in NAMES and n != "location"):
            texts = columns[name] if name != "position" else [text if is_key(text) else "" for text in columns[name]]
            named |= set(subject.rows(pl.Series(texts, dtype=pl.String)))
        locations = {path for path in set(columns.get("location", ())) if subject.named_in_location(path)}
        located = {row for row, path in enumerate(columns.get("location", ())) if path in locations}
        for row in sorted(named | located | known.rows(columns)):
            yield PersonRow(start + row, row in named, {name: columns[name][row] for name in names})
        start += batch.num_rows


def text_batches(path: Path | pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """The text columns of a Parquet or Arrow file, batch by batch."""

    def texts(known: pa.Schema) -> list[str]:
        return [f.name for f in known if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]

    if isinstance(path, Path) and path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            yield from (batch.select(texts(reader.schema)) for batch in reader)
    else:
        file = pq.ParquetFile(path)
        yield from file.iter_batches(columns=texts(file.schema_arrow))


def collected_row(values: Mapping[str, str]) -> Document | Dropped:
    """A row of a collect artifact or an extract as a record again: `Dropped` if it has a rule, else `Document`."""
    kind = Dropped if values.get("rule") else Document
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})


def trained_on(found: Found, refs: Iterable[str], root: Path) -> int:
    """How many of the examples that a model was trained on are the person's.

    Args:
        found: the person's rows.
        refs: the artifacts, as "stage/fingerprint", that the model was made from.
        root: the folder of the artifacts.
    """
    by_stage = {ref.split("/")[0]: root / ref for ref in refs if ref in found.known}
    if "features" in by_stage:
        rows = [row.values for row in found.files.get(by_stage["features"] / "features.parquet", ())]
        return sum(json.loads(row["meta"])["split"] == "train" for row in rows)
    return len(found.files.get(by_stage["annotate"] / "train.parquet", ())) if "annotate" in by_stage else 0


def _reworded(clean: Path, annotate: Path, found: Found) -> set[Place]:
    """The places of other wordings of the person's questions, since the examples made of them hold the person's answer.

    Only of questions that nobody else's row answers.
    """
    rows = [row.values for path in row_files(clean / "documents") for row in found.files.get(path, ())]
    rows += [row.values for path in row_files(annotate) for row in found.files.get(path, ())]
    gone = {comparable(row["question"], closing=False) for row in rows if row.get("question") and row.get("answer")}
    places: set[Place] = set()
    if gone and (clean / "documents").exists():
        columns = ["id", "source", "location", "position", "question", "answer", "same_as"]
        documents = pl.concat(
            [pl.DataFrame(pq.read_table(path, columns=columns)) for path in row_files(clean / "documents")]
        )
        theirs = {row["id"] for row in rows if "id" in row}
        others = documents.filter(~pl.col("id").is_in(theirs))
        gone -= {comparable(q, closing=False) for q in others.filter(pl.col("answer") != "")["question"]}
        for row in others.filter((pl.col("same_as") != "") & (pl.col("answer") == "")).iter_rows(named=True):
            if comparable(row["same_as"], closing=False) in gone or comparable(row["question"], closing=False) in gone:
                places.add((row["source"], row["location"], without_message(row["position"])))
    return places
