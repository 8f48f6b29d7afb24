"""Forget a person: `llmops data forget <subject>` takes their rows out where they came in, and deletes what was made.

The extracts are rewritten without their rows, and collect refuses them from then on. Every artifact that lineage
reaches from their documents is deleted whole; the next run builds it again, since artifacts are named by their content.
Versions that learned from them are marked: none becomes the champion again, and the one that is goes on until a
candidate of the next run takes its place. A receipt lists the deleted data, and every file is searched afterwards.

It is one pass over a plan (`plan`), safe to interrupt and to repeat. No stage may run meanwhile, or before it is
finished.
"""

import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops.config import Config
from llmops.data.collect import forgotten
from llmops.data.collect.extract_rows import forget as forget_extract
from llmops.data.collect.forgotten import HIDDEN
from llmops.data.retrieval import elasticsearch
from llmops.events.datasets import ERASURE
from llmops.events.events import emit
from llmops.frame.artifacts import GONE, write_whole
from llmops.frame.errors import LlmopsError
from llmops.frame.records import write_table
from llmops.privacy.erasure import plan as plans
from llmops.privacy.erasure import rows, said, search, split_entries
from llmops.privacy.erasure.plan import Plan
from llmops.privacy.erasure.subject import Subject
from llmops.privacy.retention import removal
from llmops.privacy.retention.removal import alone
from llmops.release.card import marked
from llmops.release.registry.registry import Registry
from llmops.state.database import Database, database_of

_UNREACHED = [
    "the sources themselves, and backups and copies of any of this",
    "weights of the models trained on the rows",
    "events in the spools of other machines, and where Elasticsearch, Logstash or OTLP keep them, with users' names",
    "the Hub and its cache on this machine: weights, tags, history, and `main` of the data set until the next push",
    "work files that killed cleanings left at `clean.work`: delete them while nothing runs",
    "earlier versions of objects in the repository's store, and backups that the server of the online store made",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The work of an erasure, done or planned; it holds no personal data."""

    number: int  #: 0: of a dry run
    time: str
    documents: int  #: rows in the sources
    artifacts: list[str]  #: "stage/fingerprint" of those that were deleted
    deleted: dict[str, int]  #: other things → how many were deleted or rewritten
    versions: list[dict[str, Any]]  #: that learned from the person: model, version, aliases, examples
    searched: list[str]
    unreached: list[str]  #: what no search reaches from here
    remaining: list[str]  #: files and databases that still name the person


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """The report to whoever asked: the receipt, and the places in the sources, which must not be kept with it."""

    receipt: Receipt
    documents: list[dict[str, str]]  #: where the rows were read, to delete them there: source, location, position


def forget(config: Config, identifier: str, *, by: str = "", dry_run: bool = False) -> Erasure:
    """Erase all that was made of the rows of a person, and search for the person again; with `dry_run` only plan it.

    The identifier is an e-mail address, a full name, a customer or phone number: whole words of a row, in any case.

    Raises:
        LlmopsError: if nothing names the person, a stage is running, another erasure has to be finished first, or
            feedback cannot be read from Elasticsearch now.
    """
    subject, database = Subject(identifier), database_of(config)
    with alone(config):
        if not dry_run:
            removal.finish(config)
        if begun := plans.interrupted(config, subject):
            number, plan = begun
        else:
            if not dry_run:
                said.take_in(config)
            plan = plans.make(config, subject, by)
            if not plan.found:
                raise LlmopsError(
                    f"Nothing in {config.home} names this person; nothing was changed. Give an e-mail address, name or "
                    "number as it stands in the sources, one at a time."
                )
            number = 0 if dry_run else plans.begin(database, plan, subject)
        if dry_run:
            return Erasure(receipt=_receipt(config, plan, 0, []), documents=plan.documents)
        _carry_out(config, plan, subject, number)
        receipt = _receipt(config, plan, number, _remaining(config, plan, subject))
        _announce(config, receipt, by)
        plans.end(database, number, asdict(receipt), by)
    return Erasure(receipt=receipt, documents=plan.documents)


def _carry_out(config: Config, plan: Plan, subject: Subject, number: int) -> None:
    """Do all of the plan; steps that were done before a break are done again, which changes nothing."""
    database = database_of(config)
    for version in plan.versions:
        erasure = {"time": plan.time, "examples": version["examples"], "receipt": number}
        Registry(config.registry, version["model"], database).mark(version["version"], erasure, marked)
    for path in (config.artifacts / ref for ref in plan.artifacts):  # first: the disk may be full
        if path.exists():
            removal.remove(path, plan.time, number)
    removal.finish(config)
    for path in map(Path, plan.leftovers):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    if config.search_server:
        elasticsearch.serve(config.search_server, None)
    for path in filter(Path.exists, map(Path, plan.answers)):
        _without(path, plan.examples, subject)
    records = [path for path in config.artifacts.glob(f"*/*/{GONE}") if search.names(path, subject)]
    for path in filter(Path.exists, [*map(Path, plan.texts), *records]):
        mode = path.stat().st_mode
        write_whole(path, subject.hide_lines(path.read_text(encoding="utf-8", errors="replace")).encode())
        path.chmod(mode)
    said.forget(database, plan.reviews, plan.keys)  # before their events: nothing is said with these keys any more
    for path in sorted(config.events.glob("*.db")):
        said.forget_events(path, subject, plan.keys)
    split_entries.forget(database, plan.entries)
    rows.take_out(config, plan.partitions, subject, plan.ids)
    gone = forgotten.load(database)
    for unit in map(Path, plan.extracts):
        for path in sorted(unit.glob("[!.]*.parquet")) if unit.is_dir() else [unit]:
            if path.exists():  # an extract may be deleted at any time
                forget_extract(path, gone)
    _hide_in_state(database, subject)


def _without(answers: Path, examples: list[str], subject: Subject) -> None:
    """Write the answers of a version anew without those to some examples, and those that name the person."""
    table = pl.read_parquet(answers)
    texts = [name for name in ("question", "context", "reference", "answer") if name in table.columns]
    named = set[int]().union(*(subject.rows(table[name]) for name in texts))
    kept = ~table["id"].is_in(examples) & ~pl.int_range(len(table), eager=True).is_in(named)
    write_table(answers, table.filter(kept).to_arrow())


def _hide_in_state(database: Database, subject: Subject) -> None:
    """Put a mark where the database names the person; nothing else of them is in its tables then."""
    with database.change() as connection:
        for table, key, column, text in list(search.naming_cells(search.state_cells(connection), subject)):
            value = json.loads(text) if isinstance(column.type, sa.JSON) else text
            this = [of == part for of, part in zip(table.primary_key, key, strict=True)]
            connection.execute(sa.update(table).where(*this).values({column.name: subject.hide(value)}))
    database.purge()


def _remaining(config: Config, plan: Plan, subject: Subject) -> list[str]:
    named = search.naming(config, subject)
    hidden = ([HIDDEN if subject.named_in_location(p) else p for p in path.parts] for path in named)
    still = [str(Path(*parts)) for parts in hidden]
    still += [f"repository, interval {one}" for one in rows.in_repository(config, subject, plan.ids)]
    database = database_of(config)
    return [*still, database.name] if search.in_state(database, subject) else still


def _receipt(config: Config, plan: Plan, number: int, remaining: list[str]) -> Receipt:
    parts = ("extracts", "partitions", "entries", "reviews", "keys", "texts", "answers", "leftovers")
    searched = [*map(str, search.roots(config)), database_of(config).name, config.collect.repository]
    return Receipt(
        number=number,
        time=plan.time,
        documents=len(plan.documents),
        artifacts=plan.artifacts,
        deleted={name: len(getattr(plan, name)) for name in parts if getattr(plan, name)},
        versions=plan.versions,
        searched=[place for place in searched if place],
        unreached=_UNREACHED,
        remaining=remaining,
    )


def _announce(config: Config, receipt: Receipt, by: str) -> None:
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
