"""What an erasure will change, decided before anything is changed, and kept in a journal while it is.

The journal names files with the content they had and the numbers of the rows that go: whoever finds it after a break
can finish the work although the raw rows, by which it was found, are gone already. It holds none of the rows' texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops import artifacts, pipeline
from llmops.artifacts import file_sha256, write_json
from llmops.config import Config
from llmops.data.collect import forgotten
from llmops.data.remote import is_remote, local
from llmops.erasure import partitions, said, search, split_entries
from llmops.erasure.partitions import Parts
from llmops.erasure.split_entries import Key
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found, Known, PersonRow, collected_row, find_rows, trace, trained_on
from llmops.errors import ArtifactError, LlmopsError
from llmops.improve import report as reports
from llmops.registry.registry import Registry
from llmops.release.lineage import is_trained, lineage
from llmops.state.database import database_of

_PARTIAL = re.compile(r"\..+\.(?:\d+|new|partial|gone)")  #: what was left by who was killed while writing or removing
_NAMED, _ALWAYS, _TRAINED = "named", "always", "trained"
#: When the folder that an interrupted run of a stage left is deleted; the next run makes it anew.
#: always: the person's rows stand there without their name, or packed in a copy of a source.
#: trained: if any model was trained on the person, since the run would go on from what it learned.
#: named: if it names the person. So it is for all stages that are not listed.
UNFINISHED = {
    **dict.fromkeys(("collect", "index", "annotate", "features", "evaluate", "govern"), _ALWAYS),
    **dict.fromkeys(("tune", "train", "compress"), _TRAINED),
}


@dataclass(slots=True, kw_only=True)
class Change:
    """Rows of a Parquet or Arrow file, or lines of a text, that go."""

    path: str
    sha256: str  #: of the file that still has them
    numbers: list[int]  #: from 0


@dataclass(slots=True, kw_only=True)
class TrainedVersion:
    """A model version that was trained on the person."""

    model: str
    version: str
    examples: int
    aliases: list[str]


@dataclass(slots=True, kw_only=True)
class ErasurePlan:
    """All that an erasure changes."""

    time: str
    subject: str = ""  #: keyed hash of the identifier, to know it again
    hashes: list[str] = field(default_factory=list)  #: for the list of what is not to be collected again: rows
    documents: int = 0  #: raw rows in the sources
    places: list[dict[str, str]] = field(default_factory=list)  #: where those rows stood when they were read last
    changes: list[Change] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  #: text files that get a mark instead of the name
    databases: list[str] = field(default_factory=list)  #: event databases that get one
    leftovers: list[str] = field(default_factory=list)  #: files and folders of interrupted work that are deleted
    interrupted: bool = False  #: whether any of these names the person
    trained: dict[str, int] = field(default_factory=dict)  #: train artifact → examples that it was trained on
    versions: list[TrainedVersion] = field(default_factory=list)
    online: dict[str, list[str]] = field(default_factory=dict)  #: features artifact → ids to take from the online store
    repository: Parts = field(default_factory=dict)
    splits: list[Key] = field(default_factory=list)  #: entries of the split ledger that go
    said: list[str] = field(default_factory=list)  #: rows of what users have said that go
    events: list[str] = field(default_factory=list)  #: event databases that have what they said
    reports: list[str] = field(default_factory=list)  #: of the improvement, that show what they said or asked
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        rows = self.changes or self.repository or self.splits or self.said or self.reports
        return bool(rows or self.texts or self.databases or self.events or self.interrupted)


def make(config: Config, subject: Subject) -> tuple[ErasurePlan, list[PersonRow]]:
    """The plan, and the person's raw rows."""
    root = config.artifacts
    database = database_of(config)
    theirs = said.find(database, subject)
    named = split_entries.named(database, subject)
    found = trace(root, pipeline.STAGES, subject, named, said.document_ids(config, theirs))
    for unit in _extracts(config.collect.cache):
        find_rows(unit, subject, Known(), found)
    for folder in published_indexes(config):
        find_rows(folder, subject, found.of(artifacts.read_record(folder).inputs.values()), found)
    plan = ErasurePlan(time=datetime.now(UTC).isoformat(timespec="seconds"), notes=found.notes)
    plan.versions = list(_versions(config, subject, found))
    for ref in found.known:
        if ref.startswith("train/"):
            record = artifacts.read_record(root / ref)
            if record.config.get("enabled", True) and (count := trained_on(found, record.inputs.values(), root)):
                plan.trained[ref] = count
    plan.changes = [_change(path, [row.number for row in rows]) for path, rows in sorted(found.files.items())]
    plan.changes += [change for path in sorted(root.glob("govern/*/report.md")) if (change := _lines(path, found))]
    plan.online = _online(root, found)
    plan.repository = partitions.find(config, subject, found)
    plan.splits = split_entries.find(database, subject, found)
    plan.said, prefixes = theirs, said.prefixes(database, subject)
    plan.events = [str(path) for path in sorted(config.events.glob("*.db")) if said.events(path, prefixes)]
    plan.reports = [str(path) for path in reports.telling(config, theirs, prefixes)]
    raw_files = sorted((path for path in found.files if _is_raw(path, config)), key=lambda path: _read_in(path, config))
    raw = [row for path in raw_files for row in found.files[path]]
    newest: dict[tuple[str, ...], dict[str, str]] = {}
    for row in raw:
        place = {name: row.values.get(name, "") for name in ("source", "location", "position")}
        newest[tuple(place.values())] = {**place, "location": _shown(place["location"], subject)}
    plan.documents, plan.places = len(newest), [newest[place] for place in sorted(newest)]
    plan.leftovers = _leftovers(config, subject, any(plan.trained.values()))
    plan.interrupted = any(_named(Path(path), subject) for path in plan.leftovers)
    others = [path for path in files(config) if _changeable(path, config) and str(path) not in plan.leftovers]
    naming = [path for path in others if search.where_named(path, subject)]
    plan.texts = [str(path) for path in naming if path.suffix in search.TEXT]
    logs = [path.with_name(path.name.removesuffix("-wal")) for path in naming if path.suffix == ".db-wal"]
    plan.databases = sorted({str(path) for path in [*naming, *logs] if path.suffix == ".db"})
    return plan, raw


def start(config: Config, plan: ErasurePlan, raw: Iterable[PersonRow], subject: Subject) -> None:
    """Write the journal: from here on, the erasure can only be finished."""
    keyed = forgotten.hasher(config.collect.forgotten)
    plan.subject = keyed(subject.plain, "anywhere")
    hashes: set[str] = set()
    for row in raw:
        item = collected_row(row.values)
        hashes.add(keyed(item, "key"))
        if not row.named and not subject.named_in_location(item.location):  # else the identifier says it
            hashes.add(keyed(item, "here"))
    plan.hashes = sorted(hashes - {""})
    write_json(config.erasure_journal, asdict(plan))


def resume(config: Config, subject: Subject) -> ErasurePlan | None:
    """The plan of an erasure that was interrupted, if there is one.

    Raises:
        LlmopsError: if it was of somebody else, or its journal is damaged.
    """
    path = config.erasure_journal
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        changes, versions = values.pop("changes"), values.pop("versions")
        plan = ErasurePlan(
            **values, changes=[Change(**c) for c in changes], versions=[TrainedVersion(**v) for v in versions]
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and run the erasure again.") from None
    if plan.subject != forgotten.hasher(config.collect.forgotten)(subject.plain, "anywhere"):
        raise LlmopsError(
            f"An erasure begun at {plan.time} was interrupted; finish it first, with the identifier it was begun with. "
            f"Its journal is {path}."
        )
    return plan


def files(config: Config) -> list[Path]:
    """Every file of the home and of folders that the configuration puts elsewhere that can hold anything of a row."""
    roots = (config.home, config.collect.cache, config.release.registry, config.features.store)
    return [p for p in search.files(roots) if search.searchable(p) and p != config.erasure_journal]


def published_indexes(config: Config) -> list[Path]:
    """The folders of all indexes in the registry, whatever model they are served with."""
    return sorted(path for path in config.release.registry.glob("*/indexes/[!.]*") if artifacts.is_done(path))


def _extracts(cache: Path) -> list[Path]:
    """The extracts that belong together: the file of one source file, or the folder with all periods of a table."""
    found = cache.iterdir() if cache.is_dir() else ()
    return sorted(p for p in found if not p.name.startswith(".") and (p.is_dir() or p.suffix == ".parquet"))


def _versions(config: Config, subject: Subject, found: Found) -> Iterator[TrainedVersion]:
    for folder in sorted(p for p in config.release.registry.glob("*") if (p / "versions").is_dir()):
        registry = Registry(config.release.registry, folder.name, database_of(config))
        aliases = registry.aliases()
        for version in registry.versions():
            history = lineage(version)
            refs = [stage["artifact"] for stage in history["stages"]]
            find_rows(version.path, subject, found.of(refs), found)
            if not {"annotate", "features"} & {ref.split("/")[0] for ref in refs if ref in found.known}:
                gone = "its artifacts are gone" + (", and its model" if version.removed else "")
                found.notes.append(f"{folder.name} {version.name}: {gone}; what it was trained on is not known")
            if is_trained(history) and (count := trained_on(found, refs, config.artifacts)):
                names = sorted(alias for alias, name in aliases.items() if name == version.name)
                yield TrainedVersion(model=folder.name, version=version.name, examples=count, aliases=names)


def _change(path: Path, numbers: list[int]) -> Change:
    return Change(path=str(path), sha256=file_sha256(path), numbers=numbers)


def _lines(report: Path, found: Found) -> Change | None:
    """The change to a governance report: the lines about findings that are taken out; None if there are none."""
    rows = found.files.get(report.with_name("findings.parquet"), ())
    cells = {f"| {row.values['where']} |" for row in rows}
    lines = report.read_text(encoding="utf-8").splitlines()
    numbers = [number for number, line in enumerate(lines) if any(cell in line for cell in cells)]
    return _change(report, numbers) if numbers else None


def _online(root: Path, found: Found) -> dict[str, list[str]]:
    """Features artifact → ids to take from the online store.

    An id that another features artifact made of somebody else's identical row stays.
    """
    gone: dict[str, set[str]] = {}
    kept: set[str] = set()
    for path in sorted(root.glob("features/*/features.parquet")):
        theirs = {row.values["input_id"] for row in found.files.get(path, ())}
        kept |= set(pq.read_table(path, columns=["input_id"])["input_id"].to_pylist()) - theirs
        gone[str(path.parent)] = theirs
    return {folder: sorted(ids - kept) for folder, ids in gone.items() if ids - kept}


def _is_raw(path: Path, config: Config) -> bool:
    return path.is_relative_to(config.artifacts / "collect") or path.is_relative_to(config.collect.cache)


def _read_in(path: Path, config: Config) -> str:
    """The data interval in which a raw file was read; an extract is of no interval, and comes before all."""
    root = config.artifacts / "collect"
    return artifacts.read_record(root / path.relative_to(root).parts[0]).interval if path.is_relative_to(root) else ""


def _shown(location: str, subject: Subject) -> str:
    return forgotten.HIDDEN if subject.named_in_location(location) else location


def _leftovers(config: Config, subject: Subject, trained: bool) -> list[str]:
    """What killed runs left and may hold something of the person. Nobody is writing to it, since no stage runs."""
    cache = config.collect.cache
    roots = [config.artifacts, cache, config.release.registry]
    left = [p for root in roots for p in sorted(root.rglob(".*")) if _PARTIAL.fullmatch(p.name)]
    left += [p for p in (cache / "downloads", *config.home.glob(".erasure-*")) if p.is_dir()]
    for stage in pipeline.STAGES:
        for folder in sorted(p for p in (config.artifacts / stage).glob("[!.]*") if not artifacts.is_done(p)):
            if stage == "clean" and config.clean.work and not is_remote(config.clean.work):
                left += [work] if (work := Path(local(config.clean.work).path, folder.name)).is_dir() else []
            when = UNFINISHED.get(stage, _NAMED)
            if when == _ALWAYS or (when == _TRAINED and trained) or (when == _NAMED and _named(folder, subject)):
                gone = artifacts.is_gone(folder)  # what a run has begun to make again in it; its record stays
                left += [path for path in folder.iterdir() if path.name != artifacts.GONE] if gone else [folder]
    return [str(path) for path in left]


def _named(left: Path, subject: Subject) -> bool:
    paths = search.files([left]) if left.is_dir() else [left]
    return any(search.where_named(path, subject) for path in paths if search.searchable(path))


def _changeable(path: Path, config: Config) -> bool:
    """Whether an erasure may change a file; the keys, and what belongs to Airflow or Feast, it may not."""
    if path.suffix in (".db", ".db-wal"):
        return path.parent == config.events
    folders = (config.artifacts, config.release.registry, config.home / "logs", config.home / "airflow" / "logs")
    return path.suffix in search.TEXT and any(path.is_relative_to(folder) for folder in folders)
