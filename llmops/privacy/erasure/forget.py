"""Forget a person: `llmops data forget <subject>` removes their rows from the data, and deletes what was made of them.

The extracts are rewritten without their rows, and collect refuses these rows from then on. Every artifact that lineage
reaches from their documents is deleted whole; the next run builds it again without them. Versions that were trained on
the rows are recorded: they cannot become champion, and a champion stays until a candidate of the next run takes its
place. A receipt lists the deleted data, and every file is searched afterwards.

The work follows a plan (`plan`) and can be interrupted and repeated. No stage may run meanwhile, or before it is
finished.
"""

import json
import shutil
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops.access.keys import FRESH_S
from llmops.config import Config
from llmops.data.collect import forgotten_list
from llmops.data.collect.extract_file import erase_persons
from llmops.data.collect.forgotten_list import HIDDEN_LOCATION
from llmops.data.retrieval import elasticsearch_store
from llmops.events.datasets import ERASURE
from llmops.events.events import emit
from llmops.frame.artifacts import REMOVED_RECORD, write_atomically
from llmops.frame.errors import LlmopsError
from llmops.frame.records import write_table
from llmops.privacy.erasure import feedback, rows, search, split_entries
from llmops.privacy.erasure import plan as plans
from llmops.privacy.erasure.plan import ErasurePlan
from llmops.privacy.erasure.subject import Subject
from llmops.privacy.retention import removal
from llmops.privacy.retention.removal import lock_home
from llmops.release.card import write_erasures
from llmops.release.registry.indexes import OWNER, owner_of
from llmops.release.registry.registry import Registry
from llmops.state.database import Database, database_of

_UNREACHED = [
    "the sources themselves, and backups and copies of any of this",
    "weights of the models trained on the rows",
    "events in the spools of other machines, and where Elasticsearch, Logstash or OTLP keep them, with users' names",
    "passages in Elasticsearch by an earlier `grounding.elasticsearch` or on an earlier server, and snapshots there",
    "the Hub and its cache on this machine: weights, tags and history",
    "work files that killed cleanings left at `clean.work`: delete them while nothing runs",
    "earlier versions of objects and unfinished uploads in the repository's store",
    "backups that the server of the online store made",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The result of an erasure, done or planned, without personal data."""

    number: int  #: 0: of a dry run
    time: str
    documents: int  #: rows in the sources
    artifacts: list[str]  #: "stage/fingerprint" of those that were deleted
    deleted: dict[str, int]  #: other things → how many were deleted or rewritten
    versions: list[dict[str, Any]]  #: that were trained on the rows: model, version, aliases, examples
    searched: list[str]
    unreached: list[str]  #: data that cannot be searched from here
    remaining: list[str]  #: files and databases that still name the person, and an index that could not be deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """The report for the caller: the receipt, and the places in the sources, which must not be kept with it."""

    receipt: Receipt
    documents: list[dict[str, str]]  #: where the rows were read, to delete them there: source, location, position


def forget_person(config: Config, identifier: str, *, by: str = "", dry_run: bool = False) -> Erasure:
    """Erase everything that was made of a person's rows, and search for the person again; with `dry_run` only plan it.

    The identifier is an e-mail address, a full name, a customer or phone number: whole words of a row, in upper or
    lower case.

    Raises:
        LlmopsError: if nothing names the person, a stage is running, another erasure has to be finished first, or
            feedback cannot be read from Elasticsearch now.
    """
    subject, database = Subject(identifier), database_of(config)
    with lock_home(config):
        if not dry_run:
            removal.finish(config)
        if interrupted := plans.find_interrupted(config, subject):
            number, plan = interrupted
        else:
            if not dry_run:
                feedback.store_new_feedback(config)
            plan = plans.make_plan(config, subject, by)
            if not plan.found:
                raise LlmopsError(
                    f"Nothing in {config.home} names this person; nothing was changed. Give an e-mail address, name or "
                    "number as it stands in the sources, one at a time."
                )
            number = 0 if dry_run else plans.begin_erasure(database, plan, subject)
        if dry_run:
            return Erasure(receipt=_make_receipt(config, plan, 0, []), documents=plan.documents)
        _execute_plan(config, plan, subject, number)
        remaining = [*_find_remaining(config, plan, subject), *_delete_from_elasticsearch(config)]
        receipt = _make_receipt(config, plan, number, remaining)
        _emit_erasure(config, receipt, by)
        plans.end_erasure(database, number, asdict(receipt), by)
    return Erasure(receipt=receipt, documents=plan.documents)


def _execute_plan(config: Config, plan: ErasurePlan, subject: Subject, number: int) -> None:
    """Do all steps of the plan. A step that an interrupted erasure has done already changes nothing."""
    database = database_of(config)
    for version in plan.versions:
        erasure = {"time": plan.time, "examples": version["examples"], "receipt": number}
        registry = Registry(config.registry, version["model"], database)
        registry.record_erasure(version["version"], erasure, write_erasures)
    for path in (config.artifacts / ref for ref in plan.artifacts):  # first: the disk may be full
        if path.exists():
            removal.remove(path, plan.time, number)
    removal.finish(config)
    for path in map(Path, plan.leftovers):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    for path in filter(Path.exists, map(Path, plan.answers)):
        _remove_answers(path, plan.examples, subject)
    records = [
        path for path in config.artifacts.glob(f"*/*/{REMOVED_RECORD}") if search.is_named_in_file(path, subject)
    ]
    for path in filter(Path.exists, [*map(Path, plan.texts), *records]):
        mode = path.stat().st_mode
        write_atomically(path, subject.hide_lines(path.read_text(encoding="utf-8", errors="replace")).encode())
        path.chmod(mode)
    feedback.forget_reviews(
        database, plan.reviews, plan.keys
    )  # before their events: no event comes with these keys any more
    if plan.keys:
        time.sleep(2 * FRESH_S)  # until then a running app may still know the keys, and write events of their requests
    for path in sorted(config.events.glob("*.db")):
        feedback.forget_events(path, subject, plan.keys)
    split_entries.forget_entries(database, plan.entries)
    rows.remove_from_repository(config, plan.partitions, subject, plan.ids)
    persons = forgotten_list.load_list(database)
    for unit in map(Path, plan.extracts):
        for path in sorted(unit.glob("[!.]*.parquet")) if unit.is_dir() else [unit]:
            if path.exists():  # an extract may be deleted at any time
                erase_persons(path, persons)
    _hide_in_state(database, subject)


def _remove_answers(answers: Path, examples: list[str], subject: Subject) -> None:
    """Remove the answers to some examples, and those that name the person, from the answers of a version."""
    table = pl.read_parquet(answers)
    texts = [name for name in ("question", "context", "reference", "answer") if name in table.columns]
    named = set[int]().union(*(subject.find_rows(table[name]) for name in texts))
    kept = ~table["id"].is_in(examples) & ~pl.int_range(len(table), eager=True).is_in(named)
    write_table(answers, table.filter(kept).to_arrow())


def _hide_in_state(database: Database, subject: Subject) -> None:
    with database.change() as connection:
        for table, key, column, text in list(search.find_cells(search.read_state_cells(connection), subject)):
            value = json.loads(text) if isinstance(column.type, sa.JSON) else text
            where = [column == part for column, part in zip(table.primary_key, key, strict=True)]
            connection.execute(sa.update(table).where(*where).values({column.name: subject.hide(value)}))
    database.vacuum()


def _find_remaining(config: Config, plan: ErasurePlan, subject: Subject) -> list[str]:
    files = search.find_files(config, subject)
    hidden = ([HIDDEN_LOCATION if subject.is_named_in_location(p) else p for p in path.parts] for path in files)
    remaining = [str(Path(*parts)) for parts in hidden]
    remaining += [f"repository, interval {one}" for one in rows.find_in_repository(config, subject, plan.ids)]
    database = database_of(config)
    return [*remaining, database.name] if search.is_named_in_state(database, subject) else remaining


def _delete_from_elasticsearch(config: Config) -> list[str]:
    """Delete the served passages there, as the last step: without an answer, the rest of the erasure is done."""
    owners = [owner_of(path.parent) for path in config.registry.glob(f"*/{OWNER}")]
    if not (config.search_server and owners):
        return []
    try:
        elasticsearch_store.delete_other_indices(config.search_server, owners, None)
    except LlmopsError as error:
        return [f"{config.search_server.name}-* in Elasticsearch, until `llmops run deploy` has deleted it: {error}"]
    return []


def _make_receipt(config: Config, plan: ErasurePlan, number: int, remaining: list[str]) -> Receipt:
    parts = ("extracts", "partitions", "entries", "reviews", "keys", "texts", "answers", "leftovers")
    searched = [*map(str, search.list_roots(config)), database_of(config).name, config.collect.repository]
    return Receipt(
        number=number,
        time=plan.time,
        documents=len(plan.documents),
        artifacts=plan.artifacts,
        deleted={name: len(getattr(plan, name)) for name in parts if getattr(plan, name)},
        versions=plan.versions,
        searched=[name for name in searched if name],
        unreached=_UNREACHED,
        remaining=remaining,
    )


def _emit_erasure(config: Config, receipt: Receipt, by: str) -> None:
    fields = {
        "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{ERASURE}|{receipt.time}|{receipt.number}")),
        "event.action": "forget",
        "event.outcome": "failure" if receipt.remaining else "success",
        "user.name": by,
        "llmops.erasure.receipt": receipt.number,
        "llmops.erasure.time": receipt.time,
        "llmops.erasure.documents": receipt.documents,
        "llmops.erasure.artifacts": len(receipt.artifacts),
        "llmops.erasure.versions": [f"{v['model']} {v['version']}" for v in receipt.versions],
        "llmops.erasure.remaining": len(receipt.remaining),
    }
    emit(config.events, ERASURE, fields)
