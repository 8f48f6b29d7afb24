"""What an erasure will delete, found before anything is changed, and kept in the database until it is done.

The person's documents are found by their own words where they stand as they were read, in extracts and in the artifacts
of collect. Every artifact that lineage reaches from these is deleted whole. The plan holds none of the rows' texts:
whoever finds it after a break can finish the work, although what it was found by is gone already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from llmops import artifacts, pipeline
from llmops.config import Config
from llmops.data.collect.forgotten import HIDDEN
from llmops.erasure import rows, said, search, split_entries
from llmops.erasure.rows import Row
from llmops.erasure.subject import Subject
from llmops.errors import ArtifactError
from llmops.records import content_id, is_key
from llmops.registry.registry import Registry
from llmops.release.lineage import lineage
from llmops.state import audit
from llmops.state.database import database_of

_PARTIAL = re.compile(r"\..+\.(?:\d+|new|partial|gone)")  #: what was left by who was killed while writing or removing
_RECORDS = (artifacts.RECORD, artifacts.GONE)
_ORDER = {stage: -number for number, stage in enumerate(pipeline.STAGES)}  #: each after what is made of it


@dataclass(slots=True, kw_only=True)
class Plan:
    """All that an erasure deletes."""

    time: str  #: ISO, UTC
    by: str  #: who asks for it
    found: bool  #: whether the person is named anywhere
    documents: list[dict[str, str]]  #: where their rows stood in the sources: source, location, position
    ids: list[str]  #: of those of their documents that have a key
    extracts: list[str]
    artifacts: list[str]  #: "stage/fingerprint", unfinished ones, too
    leftovers: list[str]  #: other files and folders of interrupted work
    partitions: list[str]  #: intervals of the repository
    entries: list[split_entries.Key]  #: of the split ledger
    examples: list[str]  #: ids of what was made of their documents
    versions: list[dict[str, Any]]  #: model, version, aliases, and how many of these examples it was trained on
    answers: list[str]  #: files of versions that have such examples
    reviews: list[str]
    keys: list[str]  #: prefixes
    texts: list[str]  #: files of logs and of the registry that name them


def make(config: Config, subject: Subject, by: str) -> Plan:
    """Find what there is to delete of a person."""
    root, database, registry = config.artifacts, database_of(config), config.registry
    named = dict.fromkeys(search.naming(config, subject))
    keys = said.prefixes(database, subject)
    reviews = said.find(database, subject, keys)
    found, ids = _rows(config, subject, named, said.document_ids(config, reviews))

    def ids_of(annotate: str) -> set[str]:
        """Return the ids that their documents have in a run: those with a key, and the rows that it read, if its
        artifact of collect is still there. Row 12 of today's file may have been another person's then. A run without a
        record was killed; it read what there is."""
        read = [found.get(collect, [])] if (collect := _collect_of(root, annotate)) else found.values()
        return ids | {row.id for some in read for row in some}

    examples = _examples(root, ids_of)
    entries = split_entries.find(database, subject, ids_of, examples)
    examples |= {id_ for _, _, id_ in entries}
    inside = [path.relative_to(root).parts for path in named if path.is_relative_to(root)]
    holding = {"/".join(parts[:2]) for parts in inside if len(parts) > 2 and parts[-1] not in _RECORDS}
    read = {ref for ref in holding if not ref.startswith("collect/")}  # nobody reads what collect quarantines
    read |= {artifacts.ref(path.parent) for path in _splits(root) if examples and _of(path, examples)}  # carried ones
    reached = _reached(root, read | {ref for ref, some in found.items() if any(row.file == 0 for row in some)})
    gone = holding | reached | {ref for ref, some in found.items() if some} | _reports(root, [*reviews, *keys])
    gone = {ref for ref in gone if artifacts.is_done(root / ref)} | set(_unfinished(root))
    answers = [path for path in registry.glob("*/versions/*/answers.parquet") if path in named or _of(path, examples)]
    logs = (config.home / "logs", config.home / "airflow" / "logs")
    texts = [path for path in named if path.suffix in search.TEXT and any(map(path.is_relative_to, logs))]
    texts += [path for path in registry.glob("*/versions/*/*") if path in named and path.suffix in (".json", ".md")]
    caches = [path for path in named if any(map(path.is_relative_to, (config.home / "drift", config.home / "decay")))]
    caches += registry.glob("*/index/[!.]*")  # the lineage of a served index may be gone; the next run serves one
    return Plan(
        time=audit.now(),
        by=by,
        found=bool(named or keys or reviews or entries or any(found.values()) or search.in_state(database, subject)),
        documents=_places([row for some in found.values() for row in some], subject),
        ids=sorted(ids),
        extracts=sorted(path for path, some in found.items() if some and Path(path).is_absolute()),
        artifacts=sorted(gone, key=lambda ref: (_ORDER.get(ref.split("/")[0], 0), ref)),
        leftovers=list(map(str, [*_leftovers(config), *caches])),
        partitions=sorted(name for name, some in found.items() if some and "/" not in name),
        entries=[*sorted(entries)],
        examples=sorted(examples),
        versions=list(_versions(config, reached, examples)),
        answers=list(map(str, answers)),
        reviews=reviews,
        keys=keys,
        texts=list(map(str, texts)),
    )


def _rows(
    config: Config, subject: Subject, named: Collection[Path], ids: set[str]
) -> tuple[dict[str, list[Row]], set[str]]:
    """Return the person's rows in each artifact of collect, extract and interval of the repository, by its name or
    path; and the ids of those that are theirs in every version, also where it does not name them."""
    made = artifacts.finished(config.artifacts / "collect")
    units = {artifacts.ref(path): [path / "documents.parquet", path / "quarantine.parquet"] for path in made}
    for path in sorted(config.collect.cache.absolute().glob("[!.]*")):  # of a file, or of all periods of a table
        if path.is_dir() or path.suffix == ".parquet":
            units[str(path)] = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
    found = {name: list[Row]() for name in units}
    for again in (False, True):
        for name, files in units.items():
            names = any(path in named for path in files)
            if names or (again and ids):
                found[name] = rows.find([path for path in files if path.exists()], subject if names else None, ids)
        if not again or ids:
            found |= rows.in_repository(config, subject, ids)
        ids = ids | {row.id for some in found.values() for row in some if is_key(row.position)}
    return found, ids


def _collect_of(root: Path, annotate: str) -> str:
    """The artifact of collect behind one of annotate; empty if its records are gone."""
    try:
        clean = artifacts.read_record(root / "annotate" / annotate).inputs["clean"]
        return artifacts.read_record(root / clean).inputs["collect"]
    except (ArtifactError, KeyError):
        return ""


def _examples(root: Path, ids_of: Callable[[str], set[str]]) -> set[str]:
    """The ids of the examples that were made of their documents, in the artifacts of annotate that are there."""
    found = set[str]()
    for path in _splits(root):
        ids = ids_of(path.parent.name)
        made = pl.read_parquet(path, columns=["id", "source", "location", "position"]).iter_rows()
        found |= {id_ for id_, *place in made if content_id(*place) in ids}
    return found


def _splits(root: Path) -> list[Path]:
    """The files of examples in the artifacts of annotate that are there."""
    names = ("train.parquet", "validation.parquet", "test.parquet")
    files = [path / name for path in artifacts.finished(root / "annotate") for name in names]
    return [path for path in files if path.is_file()]


def _reached(root: Path, refs: set[str]) -> set[str]:
    """Some artifacts and all that was made of them, also by way of some whose data is gone."""
    reached = set(refs)
    for stage in pipeline.STAGES:
        for path in (root / stage).glob("[!.]*"):
            if artifacts.is_done(path) or artifacts.is_gone(path):
                inputs = {ref for name, ref in artifacts.read_record(path).inputs.items() if name != "champion"}
                reached |= set() if reached.isdisjoint(inputs) else {artifacts.ref(path)}
    return reached


def _reports(root: Path, marks: list[str]) -> set[str]:
    """The reports of improvements that show one of these reviews, or tell of one of these keys."""
    reports = [path for path in (root / "improve").glob("[!.]*/report.json") if marks]
    return {artifacts.ref(p.parent) for p in reports if any(mark in p.read_text(encoding="utf-8") for mark in marks)}


def _unfinished(root: Path) -> Iterator[str]:
    """What interrupted runs have begun: nobody knows what it was made of."""
    for path in (path for stage in pipeline.STAGES for path in (root / stage).glob("[!.]*")):
        if path.is_dir() and not artifacts.is_done(path) and {p.name for p in path.iterdir()} != {artifacts.GONE}:
            yield artifacts.ref(path)


def _leftovers(config: Config) -> Iterator[Path]:
    """What killed runs left elsewhere. Nobody is writing to it, since no stage runs."""
    for root in (config.artifacts, config.collect.cache, config.registry):
        yield from (path for path in sorted(root.rglob(".*")) if _PARTIAL.fullmatch(path.name))
    folders = [config.collect.cache / "downloads", *config.home.glob(".erasure-*")]
    yield from (path for path in folders if path.is_dir())


def _versions(config: Config, reached: set[str], examples: set[str]) -> Iterator[dict[str, Any]]:
    """The model versions that were trained on some of these examples; 0 of them: their training rows are gone."""
    for folder in sorted(path for path in config.registry.glob("*") if (path / "versions").is_dir() and reached):
        registry = Registry(config.registry, folder.name, database_of(config))
        aliases = registry.aliases()
        for version in registry.versions():
            made = [stage["artifact"] for stage in lineage(version)["stages"]]
            files = {ref: config.artifacts / ref / "train.parquet" for ref in made if ref.startswith("annotate/")}
            count = sum(_of(path, examples) for path in files.values() if path.is_file())
            if count or any(ref in reached and not path.is_file() for ref, path in files.items()):
                names = sorted(alias for alias, name in aliases.items() if name == version.name)
                yield {"model": folder.name, "version": version.name, "aliases": names, "examples": count}


def _of(path: Path, examples: set[str]) -> int:
    """How many of some examples are in a file."""
    return len(examples.intersection(pl.read_parquet(path, columns=["id"])["id"]))


def _places(theirs: list[Row], subject: Subject) -> list[dict[str, str]]:
    """Where rows stand, each place once; what would name the person is hidden."""
    return [
        {"source": s, "location": HIDDEN if subject.named_in_location(at) else at, "position": subject.hide(position)}
        for s, at, position in sorted({(row.source, row.location, row.position) for row in theirs})
    ]
