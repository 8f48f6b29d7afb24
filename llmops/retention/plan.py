"""What `llmops gc` would remove and what it keeps, each with its size and the reason; nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from llmops import artifacts, pipeline
from llmops.config import Config
from llmops.data.index.filling import Copies
from llmops.errors import ArtifactError, IndexRefused, IndexUnavailable, RegistryError, SourceError
from llmops.registry.indexes import is_decided, published, unserved
from llmops.registry.registry import Registry
from llmops.registry.version import Version
from llmops.release.lineage import lineage
from llmops.retention import disk, policy, removal
from llmops.retention.disk import File
from llmops.retention.policy import Artifact, Reasons
from llmops.retention.work_folders import WorkFolder, work_folders
from llmops.state.database import database_of

Kind = Literal["version", "index", "passages", "artifact", "unfinished", "extracts", "left over", "work files", "logs"]

#: What stays of a version whose model goes: card, lineage, decision and figures.
_DOCUMENTS = re.compile(r".+\.(?:json|md)")
_LEFT = re.compile(r"\..+\.(?:\d+|new|partial)")  #: what a writer that was killed left


@dataclass(frozen=True, slots=True)
class Item:
    """Something that takes room."""

    kind: Kind
    name: str
    interval: str
    goes: bool
    why: str
    paths: tuple[Path, ...] = field(repr=False)  #: what is removed, or stays
    files: tuple[File, ...] = field(repr=False)
    model: str = ""  #: of a version
    work: WorkFolder | None = field(default=None, repr=False)  #: what is removed, or stays, at `clean.work`
    remote: int = 0  #: bytes on the server that passages are searched in

    @property
    def size(self) -> int:
        """Bytes that it takes on the disk, at `clean.work` or on a server, whoever else holds the same files."""
        return self.work.size if self.work else self.remote or disk.size(self.files)

    def as_json(self) -> dict[str, Any]:
        """For scripts; the size in bytes."""
        shown = ("kind", "model", "name", "interval", "goes", "why")
        return {name: getattr(self, name) for name in shown} | {"size": self.size}


@dataclass(frozen=True, slots=True)
class Plan:
    """All that takes room and could go."""

    items: list[Item]

    @property
    def going(self) -> list[Item]:
        """What goes: versions, then artifacts, each before what it was made from."""
        order = [*reversed(pipeline.STAGES)]
        going = [item for item in self.items if item.goes]
        stages = {item.name: item.name.partition("/")[0] for item in going}
        ranks = {name: order.index(stage) for name, stage in stages.items() if stage in order}
        return sorted(going, key=lambda item: (item.kind != "version", ranks.get(item.name, 0)))

    @property
    def frees(self) -> int:
        """Bytes that are free on the disk afterwards: what has another hard link is not."""
        return disk.freed(file for item in self.items if item.goes for file in item.files)


def make(config: Config, now: datetime | None = None) -> Plan:
    """Look at everything in the home, by the rules of `policy`.

    Args:
        config: the whole configuration.
        now: the moment it is planned for; default: this one.
    """
    now, rules = now or datetime.now(UTC), config.retention
    since = (now - timedelta(days=rules.days)).timestamp()
    found, others = _artifacts(config)
    newest = policy.newest(found, rules.runs, since)
    kept = policy.with_inputs(newest, newest, found)
    compress = {ref.partition("/")[2] for ref in kept if ref.startswith("compress/")}
    items: list[Item] = []
    for registry in _registries(config):
        known, unread = _versions(registry)
        named = registry.aliases() if known else {}
        reasons = policy.versions(known, named, rules.versions, compress) | unread
        for version in known:
            if version.name in reasons:
                kept = policy.with_rows_of(kept, f"{registry.name} {version.name}", _made_from(version), found)
            items += _version_item(registry.name, version, reasons, rules.versions)
        for index in _indexes(registry):
            if not index.goes:
                made_from = artifacts.read_record(index.paths[0]).inputs.values()
                kept = policy.with_rows_of(kept, f"{registry.name}'s index", made_from, found)
            items.append(index)
        items += _passages(config, registry)
    for ref, artifact in found.items():
        path, idle = config.artifacts / ref, f"no run has used it since {_day(artifact.used)}"
        why = kept.get(ref, f"{idle}, and nothing that is kept needs it")
        items.append(_item("artifact", ref, [path], why, goes=ref not in kept, interval=artifact.record.interval))
    for path, why in others.items():
        items.append(_item("artifact", artifacts.ref(path), [path], why, goes=False))
    items += _unfinished(config, since)
    items += _several("extracts", _extracts(config, found, newest), "none of the runs that are kept has used them")
    items += _several("left over", _left(config, since), "of work or a removal that was cut off")
    items += _work(config, since)
    logs = _logs(config, (now - timedelta(days=rules.log_days)).timestamp())
    items += _several("logs", logs, f"of tasks, older than {rules.log_days:g} days")
    return Plan(items)


def _artifacts(config: Config) -> tuple[dict[str, Artifact], dict[Path, str]]:
    """The finished artifacts, in the order of the stages; and those whose record is damaged → what to do."""
    found, damaged = dict[str, Artifact](), dict[Path, str]()
    for stage in pipeline.STAGES:
        for path in sorted((config.artifacts / stage).glob("[!.]*")):
            if artifacts.is_done(path):
                try:
                    found[artifacts.ref(path)] = Artifact(
                        artifacts.read_record(path), (path / artifacts.RECORD).stat().st_mtime
                    )
                except ArtifactError as error:
                    damaged[path] = str(error)
    return found, damaged


def _registries(config: Config) -> Iterator[Registry]:
    for folder in sorted(p for p in config.registry.glob("*") if (p / "versions").is_dir()):
        yield Registry(config.registry, folder.name, database_of(config))


def _versions(registry: Registry) -> tuple[list[Version], Reasons]:
    """The versions, oldest first; and those that cannot be read → why."""
    known, unread = list[Version](), Reasons()
    for name in registry.names():
        try:
            known.append(registry.get(name))
        except RegistryError as error:
            unread[name] = str(error)
    return known, unread


def _version_item(model: str, version: Version, kept: Reasons, newest: int) -> Iterator[Item]:
    trees = [path for path in version.path.iterdir() if not _DOCUMENTS.fullmatch(path.name)]
    if not trees:
        return
    trees.sort(key=lambda path: path != version.servable)  # first what makes it a model
    why = kept.get(version.name, f"no alias names it, and {newest} are newer")
    goes = version.name not in kept
    files = tuple(file for path in trees for file in disk.files(path))
    yield Item("version", version.name, version.interval, goes, why, tuple(trees), files, model)


def _indexes(registry: Registry) -> Iterator[Item]:
    """The published indexes: the served one stays, the others are served no more."""
    gone = unserved(registry)
    for path in published(registry):
        why = "it is served no more" if path in gone else "it is served"
        files = tuple(disk.files(path))
        yield Item("index", path.name, "", path in gone, why, (path,), files, registry.name)


def _passages(config: Config, registry: Registry) -> Iterator[Item]:
    """What of the model's indexes is on the server that passages are searched in."""
    if config.search_server is None:
        return
    try:
        with Copies(config.search_server, registry) as copies:
            there = copies.sizes()
            gone = copies.unserved() if is_decided(registry) else {}
    except (IndexUnavailable, IndexRefused) as error:
        yield Item("passages", config.search_server.url, "", False, str(error), (), (), registry.name)
        return
    for name, size in there.items():
        why = "it is served no more, or was not finished" if name in gone else "it is served"
        yield Item("passages", name, "", name in gone, why, (), (), registry.name, remote=size)


def _made_from(version: Version) -> list[str]:
    try:
        return [stage["artifact"] for stage in lineage(version)["stages"]]
    except RegistryError:
        return []


def _unfinished(config: Config, since: float) -> Iterator[Item]:
    """What runs have begun and not finished."""
    for stage in pipeline.STAGES:
        for path in sorted((config.artifacts / stage).glob("[!.]*")):
            if artifacts.is_done(path) or not path.is_dir():
                continue
            written = max((file.modified for file in disk.files(path)), default=path.stat().st_mtime)
            if {entry.name for entry in path.iterdir()} != {artifacts.GONE}:
                why = f"not finished; last written on {_day(written)}"
                yield _item("unfinished", artifacts.ref(path), [path], why, goes=written < since)


def _extracts(config: Config, found: dict[str, Artifact], newest: Collection[str]) -> list[Path]:
    """What was read from sources and no run that is kept has used: a run notes the time of what it uses."""
    runs = [found[ref].record.started for ref in newest if ref.startswith("collect/")]
    if not runs:
        return []
    since = min(datetime.fromisoformat(started).timestamp() for started in runs)
    kept = sorted(path for path in config.collect.cache.rglob("*.parquet") if not path.name.startswith("."))
    return [path for path in kept if path.stat().st_mtime < since]


def _left(config: Config, since: float) -> list[Path]:
    cache, registry = config.collect.cache, config.registry
    found = [*cache.glob(".*"), *cache.glob("*/.*"), *registry.glob("*/.*"), *registry.glob("*/versions/.*")]
    found += registry.glob("*/indexes/.*")
    left = [path for path in found if _LEFT.fullmatch(path.name)]
    left += (cache / "downloads").glob("*")
    return removal.found_trash(config) + [path for path in sorted(left) if path.lstat().st_mtime < since]


def _work(config: Config, since: float) -> Iterator[Item]:
    """What cleanings left at `clean.work`, where nothing of the home's disk is."""
    try:
        for left in work_folders(config):
            why = f"of a cleaning that was cut off; last written on {_day(left.modified)}"
            yield Item("work files", left.work.location, "", left.modified < since, why, (), (), work=left)
    except SourceError as error:
        yield Item("work files", config.clean.work, "", False, str(error), (), ())


def _logs(config: Config, since: float) -> list[Path]:
    folders = (config.home / "logs" / "tasks", config.home / "airflow" / "logs")
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.lstat().st_mtime < since]


def _several(kind: Kind, paths: list[Path], why: str) -> Iterator[Item]:
    if paths:
        yield _item(kind, f"{len(paths)} in all", paths, why, goes=True)


def _item(kind: Kind, name: str, paths: list[Path], why: str, *, goes: bool, interval: str = "") -> Item:
    files = tuple(file for path in paths for part in _data(path) for file in disk.files(part))
    return Item(kind, name, interval, goes, why, tuple(paths), files)


def _data(path: Path) -> list[Path]:
    """What takes room in a folder, but for the record of an artifact, which stays; the path itself, if it is a file."""
    if not path.is_dir():
        return [path]
    return [part for part in path.iterdir() if part.name not in (artifacts.RECORD, artifacts.GONE)]


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
