"""The stage collect: reads every source into documents. Unreadable rows are quarantined with position and reason."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmops.config import Collect, Source
from llmops.data.collect import forgotten_list, repository
from llmops.data.collect.extract_file import LEFT_OUT, read_extract
from llmops.data.collect.extracts import Extractor, merge_periods
from llmops.data.collect.files import find_source_files, hash_versions
from llmops.data.collect.forgotten_list import ForgottenList
from llmops.data.collect.readers.origin import Origin
from llmops.data.collect.readers.pages import repeated_lines
from llmops.data.collect.workers import Workers
from llmops.data.credentials import read_environment
from llmops.data.feedback import documents as feedback
from llmops.data.feedback.rows import Review
from llmops.data.row_file import RowFile
from llmops.frame import machine
from llmops.frame.errors import SourceError, SourceUnavailableError, TransientError
from llmops.frame.records import Document, DroppedRow, get_schema, write_table
from llmops.state.database import database_at
from llmops.state.file_hashes import cached_hashing

log = logging.getLogger(__name__)

CORRECTED = "corrected"  #: rule of a row whose answer was corrected by users
QUOTED_ROWS = 3  #: quarantined rows quoted in a message


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
    quoted: list[DroppedRow] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)  #: location and version of its files

    @property
    def has_only_corrected(self) -> bool:
        """Return True if users have corrected every row, except those of forgotten persons."""
        return 0 < self.rules[CORRECTED] == self.quarantined - self.forgotten

    def get_metrics(self) -> dict[str, int]:
        """Return the counts."""
        return {name: number for name, number in asdict(self).items() if isinstance(number, int)}


def run(config: Collect, *, interval: str, out: Path, sources: str = "", database: str = "") -> Mapping[str, Any]:
    """Read all sources of `config` for one data interval.

    Write `documents.parquet`, `quarantine.parquet` and, for a feedback source, `pairs.parquet`. Copy the documents to
    the repository, if there is one.

    `sources` is the expected content of the sources (`files.hash_content`); empty: any. `database` is the URL of the
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
    has_feedback = any(source.kind == "feedback" for source in config.sources)
    reviews = feedback.read_accepted(database, interval) if has_feedback else []
    load_list = forgotten_list.load_list_with_key if reviews else forgotten_list.load_list
    forgotten = load_list(database_at(database)) if database else ForgottenList()
    with RowFile(out / "documents.parquet", get_schema(Document)) as documents:
        with (
            RowFile(out / "quarantine.parquet", get_schema(DroppedRow)) as quarantine,
            Workers(config.file_memory_mb << 20, forgotten) as workers,
        ):
            extractor = Extractor(config.cache, out, database, forgotten, workers, config.file_timeout_s)
            for number, source in enumerate(config.sources, start=1):
                try:
                    result = _collect_source(source, config, interval, documents, quarantine, out, reviews, extractor)
                except SourceError as error:
                    problems.append(error)
                    continue
                counts[source.name] = result
                log.info("source %d of %d, %s: %s", number, len(config.sources), source.name, result.get_metrics())
                if result.quoted:
                    log.warning("source %s: quarantined %s", source.name, _quote_rows(result))
                is_empty = not result.documents and not result.has_only_corrected
                if is_empty and source.kind != "feedback":  # there may be no feedback yet
                    problems.append(SourceError(_explain_no_documents(source, result)))
        if problems:
            are_transient = all(isinstance(problem, TransientError) for problem in problems)
            # A permanent problem fails the next try, too.
            kind = SourceUnavailableError if are_transient else SourceError
            raise kind(" ".join(map(str, problems)) + f" All quarantined rows: {out / 'quarantine.parquet'}.")
        versions = [(source, counts[source.name].versions) for source in config.sources if source.kind != "sql"]
        if sources and hash_versions(versions) != sources:
            raise SourceUnavailableError("Files of the sources came, went or changed since this run began; run again.")
    metrics = {
        "documents": documents.row_count,
        "quarantined": quarantine.row_count,
        "forgotten": sum(result.forgotten for result in counts.values()),
        "sources": {name: result.get_metrics() for name, result in counts.items()},
    }
    if config.repository:
        location = config.repository if "://" in config.repository else str(config.root / config.repository)
        uploaded = repository.upload_documents(
            out / "documents.parquet", location, interval, read_environment(config.connection)
        )
        return {**metrics, "repository": uploaded}
    return metrics


def _collect_source(
    source: Source,
    config: Collect,
    interval: str,
    documents: RowFile,
    quarantine: RowFile,
    out: Path,
    reviews: Sequence[Review],
    extractor: Extractor,
) -> SourceCounts:
    counts, location = SourceCounts(), source.location.replace("{date}", interval)
    corrections = feedback.Corrections(reviews if source.kind != "feedback" else ())
    copy_rows = partial(_copy_rows, documents=documents, quarantine=quarantine, counts=counts, corrections=corrections)
    with TemporaryDirectory(prefix=".scratch-", dir=out) as folder:
        scratch = Path(folder)
        extractor = replace(extractor, scratch=scratch)
        if source.kind == "feedback":
            counts.read, counts.versions = 1, [(feedback.LOCATION, feedback.hash_reviews(reviews))]
            origin = Origin(source, feedback.LOCATION, interval)
            path = extractor.extract_feedback(reviews, origin, extractor.forgotten.hash_texts)
            copy_rows(read_extract(path))
            _write_pairs(source, reviews, path, out / "pairs.parquet")
            return counts
        if source.kind != "sql":
            with cached_hashing(extractor.database) as sha256:
                versioned_files = [(f, f.get_version(sha256)) for f in find_source_files(source, config.root, interval)]
            counts.versions = [(file.location, version) for file, version in versioned_files]
            processes = min(machine.count_cores(), machine.get_total_memory() // extractor.workers.memory)
            extracts = extractor.extract_files(versioned_files, source, processes)
            counts.read = sum(extract.is_new for extract in extracts)
            counts.unchanged = len(extracts) - counts.read
            html_pages = extracts if source.kind == "html" else []
            repeated = repeated_lines.find_repeated_lines(read_extract(page.path) for page in html_pages)
            for extract in extracts:
                batches = read_extract(extract.path)
                copy_rows(repeated_lines.remove_lines(batches, repeated) if repeated else batches)
            return counts
        origin, environ = Origin(source, location, interval), read_environment(source.connection)
        if source.cursor:
            periods, counts.read = extractor.extract_table(origin, config.root, environ)
            counts.unchanged = len(periods) - counts.read
            copy_rows(merge_periods(periods, scratch))
        else:
            counts.read = 1
            copy_rows(read_extract(extractor.extract_query(origin, config.root, environ)))
    return counts


def _write_pairs(source: Source, reviews: Sequence[Review], extract: Path, path: Path) -> None:
    batches = (batch.filter(pc.equal(batch["rule"], "")) for batch in read_extract(extract))
    document_ids = {id for batch in batches for id in batch["id"].to_pylist()}
    rows = [pair for pair in feedback.build_pairs(source.name, reviews) if pair["id"] in document_ids]
    write_table(path, pa.Table.from_pylist(rows, schema=feedback.PAIR_SCHEMA))


def _copy_rows(
    batches: Iterable[pa.RecordBatch],
    *,
    documents: RowFile,
    quarantine: RowFile,
    counts: SourceCounts,
    corrections: feedback.Corrections,
) -> None:
    """Copy rows of extracts to documents or quarantine. Rows whose answer users have corrected are quarantined."""
    for batch in batches:
        table = pa.Table.from_batches([batch])
        is_document, is_left_out = pc.equal(table["rule"], ""), pc.equal(table["rule"], LEFT_OUT)
        good_rows, bad_rows = table.filter(is_document), table.filter(pc.invert(pc.or_(is_document, is_left_out)))
        left_out_rows = len(table) - len(good_rows) - len(bad_rows)
        if corrections:
            good_rows, corrected_rows = _split_corrected(good_rows, corrections)
            bad_rows = pa.concat_tables([bad_rows, corrected_rows])
        documents.add(good_rows)
        quarantine.add(bad_rows)
        counts.documents += len(good_rows)
        counts.quarantined += len(bad_rows)
        counts.left_out += left_out_rows
        counts.rules.update(bad_rows["rule"].to_pylist())
        counts.forgotten = counts.rules[forgotten_list.RULE]
        for row in bad_rows.slice(0, QUOTED_ROWS - len(counts.quoted)).to_pylist():
            counts.quoted.append(DroppedRow(**{f.name: row[f.name] for f in fields(DroppedRow)}))


def _split_corrected(rows: pa.Table, corrections: feedback.Corrections) -> tuple[pa.Table, pa.Table]:
    """Split rows into those without corrections by users, and corrected ones as quarantined rows.

    A row is corrected if somebody has corrected the answer to its question with its context. Another context, such as
    another product, makes it another question.
    """
    pairs = zip(rows["question"].to_pylist(), rows["context"].to_pylist(), strict=True)
    positions = [corrections.find(question, context) for question, context in pairs]
    is_corrected = pa.array(list(map(bool, positions)), pa.bool_())
    corrected_rows = rows.filter(is_corrected)
    details = [f"users have corrected its answer: {position}" for position in positions if position]
    content = corrected_rows["question"].to_pylist()
    columns = {"rule": [CORRECTED] * len(content), "detail": details, "content": content}
    for name, values in columns.items():
        index = corrected_rows.schema.get_field_index(name)
        column = corrected_rows.schema.field(name)
        corrected_rows = corrected_rows.set_column(index, column, pa.array(values, pa.string()))
    return rows.filter(pc.invert(is_corrected)), corrected_rows


def _explain_no_documents(source: Source, counts: SourceCounts) -> str:
    if counts.quarantined:
        rules = ", ".join(f"{n} {rule}" for rule, n in sorted(counts.rules.items()))
        reason = f"all {counts.quarantined} rows of it were quarantined ({rules}): {_quote_rows(counts)}"
    elif counts.left_out:
        reason = f"its `where` leaves out all {counts.left_out} rows"
    else:
        reason = f"{source.location} holds no rows"
    return f"Source {source.name} yields no document: {reason}."


def _quote_rows(counts: SourceCounts) -> str:
    quoted = "; ".join(f"{row.location}, {row.position}: {row.rule}: {row.detail}" for row in counts.quoted)
    return quoted + (f"; and {counts.quarantined - QUOTED_ROWS} more" if counts.quarantined > QUOTED_ROWS else "")
