"""The stage collect: reads every source into documents. Unreadable rows are quarantined with position and reason."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmops.config import Collect, Source
from llmops.data.collect import forgotten, repository
from llmops.data.collect.extract_rows import LEFT_OUT, extract_rows
from llmops.data.collect.extracts import Extracts, merged_periods
from llmops.data.collect.files import content_of, matching_files
from llmops.data.collect.forgotten import Forgotten
from llmops.data.collect.readers.origin import Origin
from llmops.data.collect.readers.pages import repeated
from llmops.data.credentials import environment
from llmops.data.feedback import documents as feedback
from llmops.data.feedback.rows import Review
from llmops.data.row_file import RowFile
from llmops.data.text.comparable import comparable
from llmops.frame import machine
from llmops.frame.errors import SourceError, SourceUnavailableError, TransientError
from llmops.frame.records import Document, Dropped, schema, write_table
from llmops.state.database import database_at
from llmops.state.file_hashes import cached_hashing

log = logging.getLogger(__name__)

CORRECTED = "corrected"  #: rule of a row whose answer was corrected by users
SHOWN = 3  #: quarantined rows quoted in a message


@dataclass(slots=True)
class SourceCounts:
    """The result of one source."""

    documents: int = 0
    quarantined: int = 0
    forgotten: int = 0  #: quarantined rows of forgotten persons
    left_out: int = 0  #: rows excluded by its `where`
    read: int = 0  #: files, or periods of a table, that were read
    unchanged: int = 0  #: files or periods with an extract of an earlier run
    rules: Counter[str] = field(default_factory=Counter)
    shown: list[Dropped] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)  #: location and version of its files

    def metrics(self) -> dict[str, int]:
        """Return the counts."""
        return {name: number for name, number in asdict(self).items() if isinstance(number, int)}


def run(config: Collect, *, interval: str, out: Path, sources: str = "", database: str = "") -> Mapping[str, Any]:
    """Read all sources of `config` for one data interval.

    Write `documents.parquet`, `quarantine.parquet` and, for a feedback source, `pairs.parquet`. Copy the documents to
    the repository, if there is one.

    `sources` is the expected content of the sources (`files.content`); empty: any. `database` is the URL of the
    database with feedback and forgotten persons.

    Raises:
        SourceError: naming every source that cannot be reached or has no documents, with the reasons.
        SourceUnavailableError: if the files differ from `sources`.
        RepositoryError: if the repository refuses the documents.
    """
    if not config.sources:
        raise SourceError("There is no source to collect; list at least one under `collect: sources:`.")
    counts: dict[str, SourceCounts] = {}
    problems: list[SourceError] = []
    hears = any(source.kind == "feedback" for source in config.sources)
    said = feedback.read_accepted(database, interval) if hears else []
    gone = (forgotten.keyed if said else forgotten.load)(database_at(database)) if database else Forgotten()
    with RowFile(out / "documents.parquet", schema(Document)) as documents:
        with RowFile(out / "quarantine.parquet", schema(Dropped)) as quarantine:
            for number, source in enumerate(config.sources, start=1):
                try:
                    found = _collect(source, config, interval, documents, quarantine, out, database, said, gone)
                except SourceError as error:
                    problems.append(error)
                    continue
                counts[source.name] = found
                log.info("source %d of %d, %s: %s", number, len(config.sources), source.name, found.metrics())
                if found.shown:
                    log.warning("source %s: quarantined %s", source.name, _shown(found))
                if not found.documents and source.kind != "feedback":  # there may be no feedback yet
                    problems.append(SourceError(_why_nothing(source, found)))
        if problems:
            passing = all(isinstance(problem, TransientError) for problem in problems)
            kind = SourceUnavailableError if passing else SourceError  # a permanent problem fails the next try, too
            raise kind(" ".join(map(str, problems)) + f" All quarantined rows: {out / 'quarantine.parquet'}.")
        read = [(source, counts[source.name].versions) for source in config.sources if source.kind != "sql"]
        if sources and content_of(read) != sources:
            raise SourceUnavailableError("Files of the sources came, went or changed since this run began; run again.")
    metrics = {
        "documents": documents.rows,
        "quarantined": quarantine.rows,
        "forgotten": sum(found.forgotten for found in counts.values()),
        "sources": {name: found.metrics() for name, found in counts.items()},
    }
    if config.repository:
        location = config.repository if "://" in config.repository else str(config.root / config.repository)
        put = repository.upload(out / "documents.parquet", location, interval, environment(config.connection))
        return {**metrics, "repository": put}
    return metrics


def _collect(
    source: Source,
    config: Collect,
    interval: str,
    documents: RowFile,
    quarantine: RowFile,
    out: Path,
    database: str,
    said: Sequence[Review],
    gone: Forgotten,
) -> SourceCounts:
    counts, location = SourceCounts(), source.location.replace("{date}", interval)
    corrected = feedback.map_corrections(said) if source.kind != "feedback" else {}
    copy = partial(_copy, documents=documents, quarantine=quarantine, counts=counts, corrected=corrected)
    with TemporaryDirectory(prefix=".scratch-", dir=out) as folder:
        scratch = Path(folder)
        extracts = Extracts(config.cache, scratch, database, gone)
        if source.kind == "feedback":
            counts.read, counts.versions = 1, [(feedback.LOCATION, feedback.version_of(said))]
            origin = Origin(source, feedback.LOCATION, interval)
            path = extracts.of_feedback(said, origin, gone.hash)
            copy(extract_rows(path))
            _write_pairs(source, said, path, out / "pairs.parquet")
            return counts
        if source.kind != "sql":
            with cached_hashing(database) as sha256:
                named = [(f, f.version(sha256)) for f in matching_files(source, config.root, interval)]
            counts.versions = [(file.location, version) for file, version in named]
            found = extracts.of_files(named, source, min(machine.cores(), machine.total_memory() // machine.GIB))
            counts.read = sum(new for _, new in found)
            counts.unchanged = len(found) - counts.read
            edges = repeated.edges(extract_rows(path) for path, _ in found) if source.kind == "html" else frozenset()
            for path, _ in found:
                copy(repeated.without(extract_rows(path), edges) if edges else extract_rows(path))
            return counts
        origin, environ = Origin(source, location, interval), environment(source.connection)
        if source.cursor:
            periods, counts.read = extracts.of_table(origin, config.root, environ)
            counts.unchanged = len(periods) - counts.read
            copy(merged_periods(periods, scratch))
        else:
            counts.read = 1
            copy(extract_rows(extracts.of_query(origin, config.root, environ)))
    return counts


def _write_pairs(source: Source, said: Sequence[Review], extract: Path, path: Path) -> None:
    found = (batch.filter(pc.equal(batch["rule"], "")) for batch in extract_rows(extract))
    good = {id for batch in found for id in batch["id"].to_pylist()}
    rows = [pair for pair in feedback.build_pairs(source.name, said) if pair["id"] in good]
    write_table(path, pa.Table.from_pylist(rows, schema=feedback.PAIRS))


def _copy(
    batches: Iterable[pa.RecordBatch],
    *,
    documents: RowFile,
    quarantine: RowFile,
    counts: SourceCounts,
    corrected: Mapping[str, str],
) -> None:
    """Copy rows of extracts to documents or quarantine. Rows whose question is in `corrected` are quarantined."""
    for batch in batches:
        table = pa.Table.from_batches([batch])
        good, left_out = pc.equal(table["rule"], ""), pc.equal(table["rule"], LEFT_OUT)
        found, bad = table.filter(good), table.filter(pc.invert(pc.or_(good, left_out)))
        left = len(table) - len(found) - len(bad)
        if corrected:
            found, wrong = _without_corrected(found, corrected)
            bad = pa.concat_tables([bad, wrong])
        documents.add(found)
        quarantine.add(bad)
        counts.documents += len(found)
        counts.quarantined += len(bad)
        counts.left_out += left
        counts.rules.update(bad["rule"].to_pylist())
        counts.forgotten = counts.rules[forgotten.RULE]
        for row in bad.slice(0, SHOWN - len(counts.shown)).to_pylist():
            counts.shown.append(Dropped(**{f.name: row[f.name] for f in fields(Dropped)}))


def _without_corrected(found: pa.Table, corrected: Mapping[str, str]) -> tuple[pa.Table, pa.Table]:
    """Split rows into those without corrections by users, and corrected ones as quarantined rows."""
    questions = [comparable(question) for question in found["question"].to_pylist()]
    hit = pa.array([question in corrected for question in questions], pa.bool_())
    wrong = found.filter(hit)
    details = [f"users have corrected its answer: {corrected[q]}" for q in questions if q in corrected]
    new = {"rule": [CORRECTED] * len(wrong), "detail": details, "content": wrong["question"].to_pylist()}
    for name, values in new.items():
        wrong = wrong.set_column(
            wrong.schema.get_field_index(name), wrong.schema.field(name), pa.array(values, pa.string())
        )
    return found.filter(pc.invert(hit)), wrong


def _why_nothing(source: Source, counts: SourceCounts) -> str:
    if counts.quarantined:
        rules = ", ".join(f"{n} {rule}" for rule, n in sorted(counts.rules.items()))
        why = f"all {counts.quarantined} rows of it were quarantined ({rules}): {_shown(counts)}"
    elif counts.left_out:
        why = f"its `where` leaves out all {counts.left_out} rows"
    else:
        why = f"{source.location} holds no rows"
    return f"Source {source.name} yields no document: {why}."


def _shown(counts: SourceCounts) -> str:
    shown = "; ".join(f"{row.location}, {row.position}: {row.rule}: {row.detail}" for row in counts.shown)
    return shown + (f"; and {counts.quarantined - SHOWN} more" if counts.quarantined > SHOWN else "")
