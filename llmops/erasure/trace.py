"""Find a person's rows in everything that was made of the sources.

Where rows stand raw, they are found by their texts. `annotate` redacts e-mail addresses and the like, so from there on
they are followed by descent, along the inputs that the artifacts' records name: by place (source, location, position)
and id into clean and annotate, by the ids of the examples made of them into features, evaluate, govern and the model
versions. A place alone would not do: row 12 of today's file may be another person's than row 12 of yesterday's.
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
from llmops.data.annotate.split import normalized
from llmops.erasure.subject import Subject
from llmops.records import Document, Dropped

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

_MESSAGE = ", message "  #: in the position of a chat message, after that of its conversation


@dataclass(slots=True)
class Known:
    """What a person's rows are recognised by in the artifacts that were made of them."""

    ids: set[str] = field(default_factory=set)  #: of documents and examples
    places: set[Place] = field(default_factory=set)

    def __ior__(self, other: Known) -> Known:
        self.ids |= other.ids
        self.places |= other.places
        return self

    def add(self, row: Mapping[str, str]) -> None:
        """Know a row by its id and its place."""
        self.ids |= {row[name] for name in ("id", "input_id") if row.get(name)}
        if "location" in row:
            self.places.add((row["source"], row["location"], _without_message(row["position"])))

    def rows(self, columns: Mapping[str, Sequence[str]]) -> set[int]:
        """The positions of the known rows in some columns of a file."""
        found: set[int] = set()
        for name in ("id", "input_id"):
            found |= {row for row, value in enumerate(columns.get(name, ())) if value in self.ids}
        if "location" in columns:
            places = zip(
                columns["source"], columns["location"], map(_without_message, columns["position"]), strict=True
            )
            found |= {row for row, place in enumerate(places) if place in self.places}
        if "where" in columns:  # of a finding: a place in words, or an example's id after what it stands in
            words = {f"{source}: {location}, {position}" for source, location, position in self.places}
            for row, where in enumerate(columns["where"]):
                if _without_message(where) in words or not self.ids.isdisjoint(where.split()):
                    found.add(row)
        return found


@dataclass(frozen=True, slots=True)
class PersonRow:
    """A person's row in a Parquet file."""

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


def trace(root: Path, stages: Iterable[str], subject: Subject) -> Found:
    """The person's rows in all finished artifacts.

    Args:
        root: the folder of the artifacts.
        stages: their stages, each after its inputs.
        subject: the person.
    """
    found = Found()
    for stage in stages:
        for folder in sorted(path for path in (root / stage).glob("*") if artifacts.is_done(path)):
            ref, inputs = f"{stage}/{folder.name}", artifacts.read_record(folder).inputs
            refs = [source for name, source in inputs.items() if name != "champion"]
            if lost := [source for source in refs if source not in found.known]:
                found.notes.append(f"{ref}: its input {lost[0]} is gone, so that no row could be followed from there")
            known = find_rows(folder, subject, found.of(refs), found)
            if "clean" in inputs and (places := _reworded(root / inputs["clean"], folder, found)):
                known.places |= places
                known = find_rows(folder, subject, known, found)
            found.known[ref] = known
    return found


def find_rows(folder: Path, subject: Subject, known: Known, found: Found) -> Known:
    """Add the person's rows in the Parquet files of a folder to `found`.

    Returns `known` together with the ids and places of these rows.
    """
    own = Known(set(known.ids), set(known.places))
    again = True
    while again:
        again = False
        for path in parquet_files(folder):
            if rows := list(matching_rows(path, subject, own)):
                found.files[path] = rows
            before = set(own.places)
            for row in rows:
                own.add(row.values)
            # A new place may be that of earlier rows too, which do not name the person themselves: other messages of
            # the conversation, or older versions of the database row. So the files are read again.
            again = again or own.places != before
    return own


def parquet_files(folder: Path) -> list[Path]:
    """The whole Parquet files below a folder, sorted; the file itself, if it is one."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))


def matching_rows(path: Path | pa.NativeFile, subject: Subject, known: Known) -> Iterator[PersonRow]:
    """The person's rows in one Parquet file, in order."""
    file, start = pq.ParquetFile(path), 0
    names = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    for batch in file.iter_batches(columns=names):
        columns = {name: ["" if v is None else str(v) for v in batch.column(name).to_pylist()] for name in names}
        named: set[int] = set()
        for name in (n for n in names if n not in NAMES and n != "location"):
            named |= set(subject.rows(pl.Series(columns[name], dtype=pl.String)))
        locations = {path for path in set(columns.get("location", ())) if subject.named_in_location(path)}
        located = {row for row, path in enumerate(columns.get("location", ())) if path in locations}
        for row in sorted(named | located | known.rows(columns)):
            yield PersonRow(start + row, row in named, {name: columns[name][row] for name in names})
        start += batch.num_rows


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
    rows = [row.values for path in parquet_files(clean / "documents") for row in found.files.get(path, ())]
    rows += [row.values for path in parquet_files(annotate) for row in found.files.get(path, ())]
    gone = {normalized(row["question"]) for row in rows if row.get("question") and row.get("answer")}
    places: set[Place] = set()
    if gone and (clean / "documents").exists():
        columns = ["id", "source", "location", "position", "question", "answer", "same_as"]
        documents = pl.concat(
            [pl.DataFrame(pq.read_table(path, columns=columns)) for path in parquet_files(clean / "documents")]
        )
        theirs = {row["id"] for row in rows if "id" in row}
        others = documents.filter(~pl.col("id").is_in(theirs))
        gone -= {normalized(q) for q in others.filter(pl.col("answer") != "")["question"]}
        for row in others.filter((pl.col("same_as") != "") & (pl.col("answer") == "")).iter_rows(named=True):
            if normalized(row["same_as"]) in gone or normalized(row["question"]) in gone:
                places.add((row["source"], row["location"], _without_message(row["position"])))
    return places


def _without_message(position: str) -> str:
    """A position without its message number: all messages of one conversation count as one person's."""
    return position.partition(_MESSAGE)[0]
