"""The plan of `llmops gc`: data that goes and data that stays, each with its size and the reason.

The artifacts of the last runs keep their data, with all that they were made from, so that a run finds what it needs. A
version that keeps its model keeps the artifacts that hold its rows, too: an erasure follows a person through them.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llmops.config import Config
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.pipeline import pipeline
from llmops.privacy.retention import disk, removal
from llmops.release.lineage import lineage
from llmops.release.registry.decisions import UNDECIDED
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from llmops.release.registry.view import BASE
from llmops.state.database import database_of

log = logging.getLogger(__name__)

Kind = Literal["version", "artifact", "unfinished", "extracts", "left over", "logs"]
Reasons = dict[str, str]  #: what is kept → why

ROWS = ("collect", "clean", "annotate", "features")  #: stages whose artifacts hold rows of the sources

_DOCUMENTS = re.compile(r".+\.(?:json|md)")  #: of a version whose model goes, these stay


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact."""

    record: Record
    used: float  #: when a run has made or used it last, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class Item:
    """Something that takes room."""

    kind: Kind
    name: str
    interval: str
    goes: bool
    why: str
    size: int  #: bytes
    paths: tuple[Path, ...] = field(repr=False)  #: what is removed, or stays
    model: str = ""  #: of a version

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts; the size in bytes."""
        shown = ("kind", "model", "name", "interval", "goes", "why", "size")
        return {name: getattr(self, name) for name in shown}


@dataclass(frozen=True, slots=True)
class Plan:
    """All that takes room and could go."""

    items: list[Item]

    @property
    def going(self) -> list[Item]:
        """Return the items to delete."""
        return [item for item in self.items if item.goes]

    @property
    def frees(self) -> int:
        """Return about how many bytes become free. A file counts half if one of its two names stays."""
        return sum(item.size for item in self.going)


def make(config: Config, now: datetime | None = None) -> Plan:
    """Plan the removal for a moment, by default this one."""
    now, rules = now or datetime.now(UTC), config.retention
    since = (now - timedelta(days=rules.days)).timestamp()
    found, items = dict[str, Artifact](), list(map(partial(_unfinished, since=since), removal.unfinished(config)))
    made = [path for stage in pipeline.STAGES for path in sorted((config.artifacts / stage).glob("[!.]*"))]
    for path in filter(artifacts.is_done, made):
        used = (path / artifacts.RECORD).stat().st_mtime
        try:
            found[artifacts.ref(path)] = Artifact(artifacts.read_record(path), used)
        except ArtifactError as error:
            items.append(_item("artifact", artifacts.ref(path), [path], str(error), goes=False))
    runs = newest(found, rules.runs, since)
    kept = with_inputs(runs, runs, found)
    for folder in sorted(path for path in config.registry.glob("*") if (path / "versions").is_dir()):
        registry = Registry(config.registry, folder.name, database_of(config))
        known = list(_readable(registry))
        reasons = versions(known, registry.aliases() if known else {}, rules.versions)
        for version in (version for version in known if version.name in reasons):
            kept = with_rows_of(kept, f"{registry.name} {version.name}", _made_from(version), found)
        items += [item for version in known for item in _version_item(registry.name, version, reasons, rules.versions)]
    for ref, artifact in found.items():
        why = kept.get(ref, f"no run has used it since {_day(artifact.used)}, and nothing that is kept needs it")
        goes, interval = ref not in kept, artifact.record.interval
        items.append(_item("artifact", ref, [config.artifacts / ref], why, goes=goes, interval=interval))
    logs = _logs(config, (now - timedelta(days=rules.log_days)).timestamp())
    items += _several("extracts", _extracts(config, found, runs), "none of the runs that are kept has used them")
    left = removal.found_trash(config) + [one for one in removal.left_over(config) if one.lstat().st_mtime < since]
    items += _several("left over", left, "of work or a removal that was cut off")
    items += _several("logs", logs, f"of tasks, older than {rules.log_days:g} days")
    return Plan(items)


def newest(found: Mapping[str, Artifact], runs: int, since: float) -> Reasons:
    """Return the artifacts ("stage/fingerprint") to keep because they were used lately, with the reasons.

    These are the last `runs` of each stage by their last use, and all that were used since `since`, in seconds since
    the epoch.
    """
    stages: defaultdict[str, list[str]] = defaultdict(list)
    for ref in sorted(found, key=lambda ref: found[ref].used, reverse=True):
        stages[_stage(ref)].append(ref)
    kept: Reasons = {}
    for refs in stages.values():
        kept |= dict.fromkeys(refs[:runs], f"one of the {runs} that were used last")
        kept |= {ref: f"used on {_day(found[ref].used)}" for ref in refs[runs:] if found[ref].used >= since}
    return kept


def with_inputs(
    kept: Mapping[str, str], refs: Iterable[str], found: Mapping[str, Artifact], stages: Collection[str] = ()
) -> Reasons:
    """Return `kept` with all that `refs`, which are in it, were made from; of these `stages` only, if any are named."""
    all_kept, queue = dict(kept), list(refs)
    while queue:
        ref = queue.pop()
        for name, source in sorted(found[ref].record.inputs.items()):
            wanted = name != "champion" and source in found and (not stages or _stage(source) in stages)
            if wanted and source not in all_kept:
                all_kept[source] = f"{ref} was made from it"
                queue.append(source)
    return all_kept


def with_rows_of(kept: Mapping[str, str], version: str, refs: Iterable[str], found: Mapping[str, Artifact]) -> Reasons:
    """Return `kept` with the artifacts that hold the rows of a version, of all (`refs`) that it was made from."""
    rows = [ref for ref in refs if ref in found and _stage(ref) in ROWS]
    new = {ref: f"{version} was made from it" for ref in rows if ref not in kept}
    return with_inputs({**kept, **new}, new, found, ROWS)


def versions(known: Sequence[Version], aliases: Mapping[str, str], newest: int) -> Reasons:
    """Return the versions of a model, of all (oldest first), that keep their weights; `newest` of them in any case."""
    named = defaultdict[str, list[str]](list)
    for alias, name in aliases.items():
        named[name].append(alias)
    kept: Reasons = {name: f"it is {' and '.join(sorted(names))}" for name, names in named.items()}
    for version in known[-newest:]:
        kept.setdefault(version.name, f"one of the newest {newest} versions")
    for version in known:
        if version.status == UNDECIDED:
            kept.setdefault(version.name, "the gate has not decided on it")
        if version.name in named and version.compared_with not in ("", BASE):
            kept.setdefault(version.compared_with, f"{version.name} was compared with it")
    return kept


def _readable(registry: Registry) -> Iterator[Version]:
    for name in registry.names():
        try:
            yield registry.get(name)
        except RegistryError as error:
            log.warning("%s %s stays: %s", registry.name, name, error)


def _made_from(version: Version) -> list[str]:
    try:
        return [stage["artifact"] for stage in lineage(version)["stages"]]
    except RegistryError as error:
        log.warning("The rows of %s may go: %s", version.name, error)
        return []


def _version_item(model: str, version: Version, kept: Reasons, newest: int) -> Iterator[Item]:
    trees = [path for path in version.path.iterdir() if not _DOCUMENTS.fullmatch(path.name)]
    if not trees:
        return
    trees.sort(key=lambda path: path != version.servable)  # first what makes it a model
    why, goes = kept.get(version.name, f"no alias names it, and {newest} are newer"), version.name not in kept
    yield Item("version", version.name, version.interval, goes, why, sum(map(disk.size, trees)), tuple(trees), model)


def _unfinished(path: Path, since: float) -> Item:
    written = max((file.st_mtime for file in disk.files(path)), default=path.stat().st_mtime)
    why = f"not finished; last written on {_day(written)}"
    return _item("unfinished", artifacts.ref(path), [path], why, goes=written < since)


def _extracts(config: Config, found: Mapping[str, Artifact], newest: Collection[str]) -> list[Path]:
    """Return the extracts that no run that is kept has used: a run sets the time of those that it uses."""
    runs = [found[ref].record.started for ref in newest if ref.startswith("collect/")]
    if not runs:
        return []
    since = min(datetime.fromisoformat(started).timestamp() for started in runs)
    kept = sorted(path for path in config.collect.cache.rglob("*.parquet") if not path.name.startswith("."))
    return [path for path in kept if path.stat().st_mtime < since]


def _logs(config: Config, since: float) -> list[Path]:
    folders = (config.home / "logs" / "tasks", config.home / "airflow" / "logs")
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.lstat().st_mtime < since]


def _several(kind: Kind, paths: list[Path], why: str) -> Iterator[Item]:
    if paths:
        yield _item(kind, f"{len(paths)} in all", paths, why, goes=True)


def _item(kind: Kind, name: str, paths: list[Path], why: str, *, goes: bool, interval: str = "") -> Item:
    parts = [part for path in paths for part in (path.iterdir() if path.is_dir() else [path])]
    size = sum(disk.size(part) for part in parts if part.name not in (artifacts.RECORD, artifacts.GONE))
    return Item(kind, name, interval, goes, why, size, tuple(paths))


def _stage(ref: str) -> str:
    return ref.partition("/")[0]


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
