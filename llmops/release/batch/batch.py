"""Batch answers for a Parquet file of questions: `llmops batch in.parquet out.parquet`.

The output has the input's rows in order, with all their columns, and `answer`, `error` and `model_version`. With
`grounding.enabled` it has `from_documents` and `sources`, too. A row that cannot be answered gets an error. Finished
parts are stored beside the output; after an interruption the same command continues with them.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.config import Config
from llmops.frame.artifacts import compute_sha256, hold_lock, write_json
from llmops.frame.errors import ConfigError, SourceError
from llmops.frame.records import write_table
from llmops.release.batch.engine import LocalEngine, RowReply

if TYPE_CHECKING:
    from llmops.release.batch.documents import GroundedEngine

    Engine = LocalEngine | GroundedEngine

log = logging.getLogger(__name__)

PART_ROWS = 256  #: half a minute of work on two cores, the most that an interruption can lose
ADDED = ("answer", "error", "model_version")
ADDED_WITH_DOCUMENTS = (*ADDED, "from_documents", "sources")

_JOB = b"llmops.batch"  #: key of the job in the output's schema metadata


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a batch."""

    rows: int
    errors: int
    seconds: float  #: duration of this run
    output: str


def run_batch(
    settings: Config,
    source: Path,
    output: Path,
    *,
    version: str = "champion",
    max_new_tokens: int = 96,
    size: int = 16,
) -> Summary:
    """Answer `source` with a model version on this machine.

    Raises:
        SourceError: if `source` cannot be read, lacks the column, or has no row.
        ConfigError: if `output` exists and is of another job, or lies in one of the platform's folders.
        RegistryError: if there is no such version.
    """
    own = (settings.home, settings.registry, settings.artifacts, settings.collect.cache, settings.features.store)
    if reserved := [folder for folder in own if output.resolve().is_relative_to(folder.resolve())]:
        raise ConfigError(f"{output} lies in {reserved[0]}, a folder of the platform; name another output.")
    name, folder = find_servable(settings, version)
    local = LocalEngine(folder, name, max_new_tokens, size, settings.serving.classify_threshold)
    engine = _add_documents(settings, local, folder) if settings.grounding.enabled else local
    return answer_file(engine, source, output)


def _add_documents(settings: Config, engine: LocalEngine, folder: Path) -> GroundedEngine:
    from llmops.data.retrieval.grounding import compute_window
    from llmops.release.batch.documents import GroundedEngine
    from llmops.release.registry.indexes import find_served_index
    from llmops.release.registry.registry import registry_of

    registry = registry_of(settings)
    system_prompt = "" if engine.version == "base" else registry.get(engine.version).system_prompt
    grounding = settings.grounding.with_answer(find_answer_mode(settings, engine.version, folder))
    window = compute_window(settings.serving.max_context, system_prompt)
    return GroundedEngine(engine, grounding, window, find_served_index(registry.folder), settings.search_server)


def find_servable(settings: Config, version: str) -> tuple[str, Path]:
    """Return name and model folder of a version, an alias, or `base`, the untuned model selected last."""
    if version == "base":
        from llmops.frame.artifacts import find_newest
        from llmops.frame.records import get_base_path

        return "base", Path(get_base_path(find_newest(settings.artifacts / "select")))
    from llmops.release.registry.registry import registry_of

    registered = registry_of(settings).get(version)
    return registered.name, registered.servable


def find_answer_mode(settings: Config, version: str, model_folder: Path) -> str:
    """Return how a version, or `base`, answers from documents, see `Grounding.with_answer`."""
    from llmops.model.base.shape import choose_answer_mode, measure_shape, read_stored_config
    from llmops.release.registry.registry import registry_of

    if version == "base":
        return choose_answer_mode(measure_shape(read_stored_config(model_folder)).parameters)
    return registry_of(settings).get(version).answer


def answer_file(engine: Engine, source: Path, output: Path, part_rows: int = PART_ROWS) -> Summary:
    """Answer the unanswered rows of `source`. Write `output` when all are answered."""
    rows = _check_files(source, output, ADDED_WITH_DOCUMENTS if engine.grounded else ADDED)
    job = {"input": compute_sha256(source), "rows": rows, "engine": engine.name, "part_rows": part_rows}
    parts = output.with_name(f"{output.name}.parts")
    start = time.monotonic()
    with hold_lock(output):
        if output.exists():
            _check_same_job(job, json.loads((pq.read_schema(output).metadata or {}).get(_JOB, b"{}")), output)
            log.info("%s is complete already", output)
        else:
            if (parts / "job.json").exists():
                _check_same_job(job, json.loads((parts / "job.json").read_text(encoding="utf-8")), parts)
            parts.mkdir(parents=True, exist_ok=True)
            write_json(parts / "job.json", job)
            _answer_parts(engine, source, parts, rows, part_rows)
            _join_parts(parts, output, job)
        shutil.rmtree(parts, ignore_errors=True)
    errors = pq.read_table(output, columns=["error"]).column("error").to_pylist()
    failed = sum(bool(error) for error in errors)
    if failed == rows:
        raise SourceError(f"None of the {rows} rows of {source} was answered; {output} says why: {errors[0]}")
    return Summary(rows, failed, round(time.monotonic() - start, 1), str(output))


def _check_files(source: Path, output: Path, added: Sequence[str]) -> int:
    """Return the number of rows of `source`. Raise if it cannot be answered or `output` cannot be written."""
    if source.absolute() == output.absolute():
        raise ConfigError(f"{source} cannot be input and output; name another output.")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file.")
    if not source.is_file():
        raise SourceError(f"{source} is no file; give a Parquet file with a column `question`.")
    try:
        metadata, schema = pq.read_metadata(source), pq.read_schema(source)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{source} is no Parquet file: {error}") from error
    if "question" not in schema.names:
        raise SourceError(f"{source} has no column `question`; its columns are {', '.join(schema.names) or 'none'}.")
    for name in {"question", "context"} & set(schema.names):
        if not _is_text(schema.field(name).type):
            raise SourceError(f"The column `{name}` of {source} is {schema.field(name).type}; it must be text.")
    if reserved := [name for name in added if name in schema.names]:
        raise SourceError(f"{source} has a column `{reserved[0]}`, which the output adds; rename it.")
    if not metadata.num_rows:
        raise SourceError(f"{source} has no row.")
    return int(metadata.num_rows)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check_same_job(job: dict[str, Any], known: dict[str, Any], where: Path) -> None:
    if differs := [key for key, value in job.items() if known.get(key) != value]:
        raise ConfigError(
            f"{where} exists and belongs to another job (it differs in {', '.join(differs)}); delete it or name "
            "another output."
        )


def _answer_parts(engine: Engine, source: Path, parts: Path, rows: int, part_rows: int) -> None:
    done, before, failed, start, logged_s = 0, 0, 0, time.monotonic(), 0.0
    for number, table in enumerate(_read_slices(source, part_rows)):
        path = parts / f"part-{number:08d}.parquet"
        if path.exists():
            before += table.num_rows
        else:
            replies = _answer_table(engine, table)
            failed += sum(bool(reply.error) for reply in replies)
            write_table(path, _add_reply_columns(table, replies, engine.grounded))
            done += table.num_rows
        elapsed_s = time.monotonic() - start
        if done and (elapsed_s - logged_s > 5 or before + done == rows):
            logged_s, pace = elapsed_s, done / elapsed_s
            left_s = (rows - before - done) / pace
            log.info("%d of %d rows, %d errors  %.1f rows/s  %.0f s left", before + done, rows, failed, pace, left_s)


def _read_slices(source: Path, part_rows: int) -> Iterator[pa.Table]:
    """Yield the rows in order, `part_rows` at a time. Batches of a Parquet reader end at row groups instead."""
    with pq.ParquetFile(source) as file:
        waiting: list[pa.Table] = []
        count = 0
        for chunk in file.iter_batches(batch_size=part_rows):
            waiting.append(pa.Table.from_batches([chunk]))
            count += chunk.num_rows
            while count >= part_rows:
                table = pa.concat_tables(waiting)
                yield table.slice(0, part_rows)
                waiting, count = [table.slice(part_rows)], count - part_rows
        if count:
            yield pa.concat_tables(waiting)


def _answer_table(engine: Engine, table: pa.Table) -> list[RowReply]:
    questions = table.column("question").to_pylist()
    contexts = table.column("context").to_pylist() if "context" in table.column_names else [None] * len(questions)
    filled = [i for i, question in enumerate(questions) if question and question.strip()]
    replies = [RowReply(error="the question is empty")] * len(questions)
    answered = engine.answer([(questions[i], contexts[i] or "") for i in filled]) if filled else []
    for i, reply in zip(filled, answered, strict=True):
        replies[i] = reply
    return replies


def _add_reply_columns(table: pa.Table, replies: Sequence[RowReply], grounded: bool) -> pa.Table:
    for name, values in (
        ("answer", [None if r.error else r.answer for r in replies]),
        ("error", [r.error or None for r in replies]),
        ("model_version", [r.version or None for r in replies]),
    ):
        table = table.append_column(pa.field(name, pa.string()), pa.array(values, pa.string()))
    if grounded:
        flags = [r.from_documents for r in replies]
        table = table.append_column(pa.field("from_documents", pa.bool_()), pa.array(flags, pa.bool_()))
        places = pa.array([list(r.sources) for r in replies], pa.list_(pa.string()))
        table = table.append_column(pa.field("sources", places.type), places)
    return table


def _join_parts(parts: Path, output: Path, job: dict[str, Any]) -> None:
    partial = output.with_name(f".{output.name}.partial")
    paths = sorted(parts.glob("part-*.parquet"))
    schema = pq.read_schema(paths[0])
    schema = schema.with_metadata({**(schema.metadata or {}), _JOB: json.dumps(job).encode()})
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for path in paths:
            writer.write_table(pq.read_table(path).cast(schema))
    partial.replace(output)
