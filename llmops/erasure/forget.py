"""Forget a person: `llmops data forget <subject>` takes their rows out where they came in, and deletes what was made.

The extracts are rewritten without their rows, and collect refuses them from then on. Every artifact that lineage
reaches from their documents is deleted whole; the next run builds it again, since artifacts are named by their content.
Versions that learned from them are marked: none becomes the champion again, and the one that is goes on until a
candidate of the next run takes its place. What was deleted is in a receipt, and every file is searched afterwards.

It is one pass over a plan (`plan`), safe to interrupt and to repeat. No stage may run meanwhile, or before it is
finished.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa

from llmops.artifacts import GONE, write_whole
from llmops.config import Config
from llmops.data.collect import forgotten
from llmops.data.collect.extract_rows import forget as forget_extract
from llmops.data.collect.forgotten import HIDDEN
from llmops.data.remote import is_remote
from llmops.erasure import plan as plans
from llmops.erasure import receipts, rows, said, search, split_entries
from llmops.erasure.plan import Plan
from llmops.erasure.subject import Subject
from llmops.errors import LlmopsError
from llmops.monitoring.datasets import ERASURE
from llmops.monitoring.events import emit
from llmops.records import write_table
from llmops.registry.registry import Registry
from llmops.release.card import marked
from llmops.retention import removal
from llmops.retention.removal import alone
from llmops.state.database import Database, database_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What an erasure did, or would do; it holds no personal data."""

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
    """What is told to whoever asked: the receipt, and what must not be kept with it."""

    receipt: Receipt
    documents: list[dict[str, str]]  #: where the rows were read, to delete them there: source, location, position


def forget(config: Config, identifier: str, *, by: str = "", dry_run: bool = False) -> Erasure:
    """Erase all that was made of the rows of a person, and search for what is left.

    Args:
        config: the whole configuration.
        identifier: e-mail address, full name, customer or phone number: whole words of a row, whatever their case.
        by: who asks for it, for the audit and the event.
        dry_run: only tell what would be done.

    Raises:
        LlmopsError: if nothing names the person, a stage is running, another erasure has to be finished first, or
            what was said cannot be read from Elasticsearch now.
    """
    subject, database = Subject(identifier), database_of(config)
    with alone(config):
        if not dry_run:
            removal.finish(config)
        if begun := receipts.interrupted(config, subject):
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
            number = 0 if dry_run else receipts.begin(database, plan, subject)
        if dry_run:
            return Erasure(receipt=_receipt(config, plan, 0, []), documents=plan.documents)
        _carry_out(config, plan, subject, number)
        receipt = _receipt(config, plan, number, _remaining(config, plan, subject))
        _announce(config, receipt, by)
        receipts.end(database, number, asdict(receipt), by)
    return Erasure(receipt=receipt, documents=plan.documents)


def _carry_out(config: Config, plan: Plan, subject: Subject, number: int) -> None:
    """Do all of the plan; what was done before a break is done again, which changes nothing."""
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
    for path in filter(Path.exists, map(Path, plan.answers)):
        _without(path, plan.examples, subject)
    records = [path for path in config.artifacts.glob(f"*/*/{GONE}") if search.names(path, subject)]
    for path in filter(Path.exists, [*map(Path, plan.texts), *records]):
        mode = path.stat().st_mode
        write_whole(path, subject.hide_lines(path.read_text(encoding="utf-8", errors="replace")).encode())
        os.chmod(path, mode)
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
    """Put a mark where the database of what is decided names the person; nothing else of them is in its tables then."""
    with database.change() as connection:
        for table, key, column, text in list(search.naming_cells(search.state_cells(connection), subject)):
            value = json.loads(text) if isinstance(column.type, sa.JSON) else text
            this = [of == part for of, part in zip(table.primary_key, key, strict=True)]
            connection.execute(sa.update(table).where(*this).values({column.name: subject.hide(value)}))
    database.purge()


def _remaining(config: Config, plan: Plan, subject: Subject) -> list[str]:
    """The places that still name the person."""
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
        unreached=_unreached(config),
        remaining=remaining,
    )


def _unreached(config: Config) -> list[str]:
    hub, sinks, work = config.push_to_hub, config.monitoring.sinks, config.clean.work
    of_hub = ", ".join(source.location for source in config.collect.sources if source.revision)
    others = " and ".join(sink for sink in sinks if sink in ("logstash", "otlp"))
    told: list[tuple[object, str]] = [
        (True, "the sources themselves, and backups and copies of any of this"),
        (True, "weights of the models trained on the rows"),
        (True, "events in the spools of other machines that are not sent yet"),
        (of_hub, f"the Hub's cache on this machine, which holds {of_hub}"),
        (is_remote(config.collect.repository), "earlier versions of its objects that the repository's store may keep"),
        (work, f"work files that killed cleanings left in {work}: delete them while nothing runs"),
        (hub.repo, f"weights and tags of {hub.repo} on the Hub; `llmops models push` brings the cards along"),
        (
            hub.dataset,
            f"the data set {hub.dataset} on the Hub: its tags and history, and its main until the next push",
        ),
        ("elasticsearch" in sinks, "events in logs-llmops.* of Elasticsearch, with names of users and kept texts"),
        (others, f"events wherever {others} brings them, with names of users and kept texts"),
        (config.features.online != "sqlite", "what the server of the online store saved on its own disk before"),
    ]
    return [text for holds, text in told if holds]


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
