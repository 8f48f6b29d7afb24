"""Erase a person: `llmops data forget <subject>` takes their rows out of everything that was made of the sources.

Out of every artifact, the extracts, the repository, the split ledger, both Feast stores and the versions' answers;
texts and events get a mark instead of the name. The model versions that were trained on the rows are marked, and the
rows are listed, without what they say, so that collect does not bring them back. Afterwards every file is searched for
the person.

It is one pass over a plan (`plans`), safe to interrupt and to repeat. No stage may run meanwhile, or before it is
finished.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmops import artifacts
from llmops.config import Config
from llmops.data.collect import forgotten
from llmops.data.remote import is_remote
from llmops.erasure import derived, erase, partitions, passages, plans, said, search, split_entries
from llmops.erasure.plans import ErasurePlan
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found
from llmops.errors import LlmopsError
from llmops.improve import report as reports
from llmops.monitoring.datasets import ERASURE
from llmops.monitoring.events import emit
from llmops.registry.registry import Registry
from llmops.release.card import marked
from llmops.retention import removal
from llmops.retention.removal import alone
from llmops.state.database import database_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureReport:
    """What an erasure did, or would do; the person is not named in it."""

    time: str
    dry_run: bool
    documents: int  #: raw rows in the sources
    rows: dict[str, int]  #: artifact, "extracts", "registry", "repository", "splits", "reviews" → rows that were taken
    texts: int  #: files in which a mark stands for the name
    online: int  #: examples taken out of the online store
    versions: list[dict[str, Any]]  #: trained on the person: model, version, aliases, examples
    sources: list[dict[str, str]]  #: where the rows were read: source, location, position
    remaining: dict[str, str]  #: file that still names the person → where in it
    unreached: list[str]  #: what no search reaches from here
    notes: list[str]


def forget(config: Config, identifier: str, *, by: str = "", dry_run: bool = False) -> ErasureReport:
    """Erase all rows that name a person, and search for what is left.

    Args:
        config: the whole configuration.
        identifier: e-mail address, full name, customer or phone number: whole words of a row, whatever their case.
        by: who asks for it, for the event.
        dry_run: only tell what would be done.

    Raises:
        LlmopsError: if nothing names the person, a stage is running, another erasure has to be finished first, or
            what was said cannot be read from Elasticsearch now, or passages there cannot be changed.
    """
    subject = Subject(identifier)
    with alone(config):
        if not dry_run:
            removal.finish(config)
            passages.clear(config)
        plan = plans.resume(config, subject)
        raw = None
        if plan is None:
            if not dry_run:
                said.take_in(config)
            plan, raw = plans.make(config, subject)
        if not plan:
            return _nothing_to_do(config, plan, subject, dry_run)
        if dry_run:
            return _report(config, plan, {}, 0, dry_run)
        if raw is not None:
            plans.start(config, plan, raw, subject)
        online = _carry_out(config, plan, subject)
        report = _report(config, plan, _remaining(config, subject), online, dry_run)
        _announce(config, plan, report, by)
        config.erasure_journal.unlink()
    return report


def _nothing_to_do(config: Config, plan: ErasurePlan, subject: Subject, dry_run: bool) -> ErasureReport:
    if remaining := _remaining(config, subject):
        return _report(config, plan, remaining, 0, dry_run)
    raise LlmopsError(
        f"Nothing in {config.home} names this person; nothing was changed. Give an e-mail address, name or number as "
        "it stands in the sources, one at a time."
    )


def _carry_out(config: Config, plan: ErasurePlan, subject: Subject) -> int:
    """Do all of the plan that is not done yet; returns how many examples the online store still had."""
    log.info("forgetting %d raw rows, with changes in %d files", plan.documents, len(plan.changes) + len(plan.texts))
    forgotten.add(config.collect.forgotten, plan.hashes, (subject.shape, subject.plain))
    split_entries.erase(database_of(config), plan.splits)
    theirs = said.prefixes(database_of(config), subject)
    for path in map(Path, plan.events):
        said.erase_events(path, theirs)
    reports.forget(config, plan.said, theirs)
    said.erase(database_of(config), plan.said, theirs)
    for version in plan.versions:
        erasure = {"time": plan.time, "examples": version.examples}
        Registry(config.release.registry, version.model, database_of(config)).mark(version.version, erasure, marked)
    online = 0
    if plan.online:
        from llmops.features.online import forget_online

        online = sum(forget_online(config.features, Path(folder), ids) for folder, ids in plan.online.items())
    for path in map(Path, plan.leftovers):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    of = _by_artifact(config, plan)
    for folder in sorted(of.keys() - {None}, key=str):
        with artifacts.locked(folder):
            _apply_changes(of[folder], plan, subject)
            if derived.write(folder, plan):
                artifacts.amend(folder, _note(config, plan, folder))
            log.info("%s/%s is done", folder.parent.name, folder.name)
    _apply_changes(of[None], plan, subject)
    passages.renew(config)
    partitions.erase(config, plan.repository)
    for path in map(Path, plan.databases):
        erase.hide_in_database(path, subject)
    return online


def _by_artifact(config: Config, plan: ErasurePlan) -> Mapping[Any, list[Path]]:
    """The files that change, by the folder of their artifact or published index; those of none are under None."""
    of: defaultdict[Path | None, list[Path]] = defaultdict(list)
    indexes = plans.published_indexes(config)
    for path in map(Path, [*(change.path for change in plan.changes), *plan.texts]):
        inside = path.is_relative_to(config.artifacts) and len(path.relative_to(config.artifacts).parts) > 2
        folder = config.artifacts.joinpath(*path.relative_to(config.artifacts).parts[:2]) if inside else None
        of[next((index for index in indexes if path.is_relative_to(index)), folder)].append(path)
    for ref in plan.trained:
        of[config.artifacts / ref] += []
    return of


def _apply_changes(paths: list[Path], plan: ErasurePlan, subject: Subject) -> None:
    todo = {Path(change.path): change for change in plan.changes}
    texts = set(map(Path, plan.texts))
    for path in dict.fromkeys(paths):
        left = path in todo and path.exists() and artifacts.file_sha256(path) == todo[path].sha256
        if left:  # else it was done before a break
            if path.suffix in (".parquet", ".arrow"):
                erase.take_rows(path, todo[path].numbers)
            else:
                erase.take_lines(path, todo[path].numbers)
        if path in texts and path.exists():
            erase.hide(path, subject)


def _note(config: Config, plan: ErasurePlan, folder: Path) -> dict[str, Any]:
    """What is added to the artifact's record: the time of the erasure, and how many rows and examples it took."""
    ref = artifacts.ref(folder)
    own = [change for change in plan.changes if change.path.endswith(".parquet")]
    rows = sum(len(change.numbers) for change in own if Path(change.path).is_relative_to(folder))
    note: dict[str, Any] = {"time": plan.time, "rows": rows}
    return note | ({"examples": plan.trained[ref]} if ref in plan.trained else {})


def _rows(config: Config, plan: ErasurePlan) -> Counter[str]:
    """How many rows go, by artifact, or in the extracts, the registry, the repository and the split ledger."""
    rows: Counter[str] = Counter()
    for change in (c for c in plan.changes if c.path.endswith(".parquet")):
        path = Path(change.path)
        if path.is_relative_to(config.artifacts):
            rows["/".join(path.relative_to(config.artifacts).parts[:2])] += len(change.numbers)
        else:
            rows["extracts" if path.is_relative_to(config.collect.cache) else "registry"] += len(change.numbers)
    if plan.repository:
        rows["repository"] = sum(len(numbers) for parts in plan.repository.values() for numbers in parts.values())
    if plan.splits:
        rows["splits"] = len(plan.splits)
    if plan.said:
        rows["reviews"] = len(plan.said)
    return rows


def _remaining(config: Config, subject: Subject) -> dict[str, str]:
    """The files that still name the person, and where in them."""
    still = {}
    for path in plans.files(config):
        if where := search.where_named(path, subject):
            still[subject.hide(str(path))] = where
        elif subject.named_in_location(path.name):
            still[subject.hide(str(path.parent))] = "in the name of a file in it"
    for interval, parts in partitions.find(config, subject, Found()).items():
        still[f"repository, interval {interval}"] = f"in {len(parts)} parts"
    database = database_of(config)
    if left := split_entries.find(database, subject, Found()):
        still[database.name] = f"in {len(left)} entries of the split ledger"
    if words := said.find(database, subject):
        still[database.name] = f"in {len(words)} rows of what users have said"
    return still | passages.where_named(config, subject)


def _report(config: Config, plan: ErasurePlan, remaining: dict[str, str], online: int, dry_run: bool) -> ErasureReport:
    return ErasureReport(
        time=plan.time,
        dry_run=dry_run,
        documents=plan.documents,
        rows=dict(sorted(_rows(config, plan).items())),
        texts=len(plan.texts) + len(plan.databases),
        online=sum(map(len, plan.online.values())) if dry_run else online,
        versions=[asdict(version) for version in plan.versions],
        sources=plan.places,
        remaining=remaining,
        unreached=_unreached(config),
        notes=plan.notes,
    )


def _unreached(config: Config) -> list[str]:
    unreached = [
        "the sources themselves, and backups and copies of any of this",
        "weights of the models trained on the rows",
    ]
    if of_hub := [source.location for source in config.collect.sources if source.revision]:
        unreached.append(f"the Hub's cache on this machine, which holds {', '.join(of_hub)}")
    if is_remote(config.collect.repository):
        unreached.append("earlier versions of its objects that the repository's store may keep")
    if config.clean.work:
        unreached.append(
            f"work files that killed cleanings left in {config.clean.work}: in a folder, those of cleanings that are "
            "unfinished in this home are deleted; delete all others there yourself while nothing runs"
        )
    if config.push_to_hub.repo:
        unreached.append(
            f"the Hub repository {config.push_to_hub.repo}: `llmops models push` brings the cards along, but weights "
            "and tags stay; delete there what must go"
        )
    if config.push_to_hub.dataset:
        unreached.append(
            f"the data set {config.push_to_hub.dataset} on the Hub: `llmops models push` takes the rows from its main, "
            "but its tags and its history keep them, and so do those who loaded it; delete the tags there and squash "
            "the history, or delete the repository"
        )
    if "elasticsearch" in config.monitoring.sinks:
        unreached.append(
            "events in logs-llmops.* of Elasticsearch, which may hold names of users and texts that were kept "
            "(monitoring.keep_text)"
        )
    if others := [sink for sink in config.monitoring.sinks if sink in ("logstash", "otlp")]:
        unreached.append(f"events wherever {' and '.join(others)} brings them, which may hold names of users and texts")
    if config.features.online != "sqlite":
        unreached.append("what the server of the online store saved on its own disk before")
    return unreached + passages.unreached(config)


def _announce(config: Config, plan: ErasurePlan, report: ErasureReport, by: str) -> None:
    emit(
        config.events,
        ERASURE,
        {
            "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{ERASURE}|{plan.time}|{plan.subject}")),
            "event.action": "forget",
            "event.outcome": "failure" if report.remaining else "success",
            "user.name": by,
            "llmops.erasure.time": report.time,
            "llmops.erasure.documents": report.documents,
            "llmops.erasure.rows": sum(report.rows.values()),
            "llmops.erasure.online": report.online,
            "llmops.erasure.versions": [f"{v['model']} {v['version']}" for v in report.versions],
            "llmops.erasure.remaining": len(report.remaining),
        },
    )
