"""The plan of `llmops gc`: data that goes and data that stays, each with its size and the reason.

The artifacts of the last runs keep their data, with all artifacts that they were made from, so that a run finds its
inputs. A version that keeps its model keeps the artifacts with its rows, too, because an erasure searches them.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from llmops.config import Config
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.pipeline import pipeline
from llmops.privacy.retention import disk, removal
from llmops.release.lineage import read_lineage
from llmops.release.registry.decisions import UNDECIDED
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from llmops.release.registry.view import BASE
from llmops.state.database import database_of

log = logging.getLogger(__name__)

ItemKind = Literal["version", "artifact", "unfinished", "extracts", "left over", "logs"]
Reasons = dict[str, str]  #: name of an artifact or version that is kept → why

ROWS = ("collect", "clean", "annotate", "features")  #: stages whose artifacts hold rows of the sources

_DOCUMENTS = re.compile(r".+\.(?:json|md)")  #: files that stay of a version whose model goes


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact."""

    record: Record
    used: float  #: time of its last use by a run, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class DataItem:
    """Data on the disk that goes or stays."""

    kind: ItemKind
    name: str
    interval: str
    goes: bool
    why: str
    size: int  #: bytes
    paths: tuple[Path, ...] = field(repr=False)
    model: str = ""  #: of a version

    def as_json(self) -> dict[str, Any]:
        """Return the item for scripts; the size is in bytes."""
        shown = ("kind", "model", "name", "interval", "goes", "why", "size")
        return {name: getattr(self, name) for name in shown}


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """All data that could go."""

    items: list[DataItem]

    @property
    def removals(self) -> list[DataItem]:
        """Return the items to delete."""
        return [item for item in self.items if item.goes]

    @property
    def freed_bytes(self) -> int:
        """Return an estimate of the bytes that become free. A file counts half if one of its two links stays."""
        return sum(item.size for item in self.removals)


def make_plan(config: Config, now: datetime | None = None) -> RemovalPlan:
    """Plan the removal as of `now`, by default the current time."""
    now, rules = now or datetime.now(UTC), config.retention
    since = (now - timedelta(days=rules.days)).timestamp()
    found, items = dict[str, Artifact](), [_plan_unfinished(path, since) for path in removal.find_unfinished(config)]
    made = [path for stage in pipeline.STAGES for path in sorted((config.artifacts / stage).glob("[!.]*"))]
    for path in filter(artifacts.is_done, made):
        used = (path / artifacts.RECORD).stat().st_mtime
        try:
            found[artifacts.get_ref(path)] = Artifact(artifacts.read_record(path), used)
        except ArtifactError as error:
            items.append(_make_item("artifact", artifacts.get_ref(path), [path], str(error), goes=False))
    runs = keep_recent(found, rules.runs, since)
    kept = keep_inputs(runs, runs, found)
    for folder in sorted(path for path in config.registry.glob("*") if (path / "versions").is_dir()):
        registry = Registry(config.registry, folder.name, database_of(config))
        known = list(_read_versions(registry))
        reasons = keep_versions(known, registry.aliases() if known else {}, rules.versions)
        for version in (version for version in known if version.name in reasons):
            kept = keep_rows(kept, f"{registry.name} {version.name}", _list_inputs(version), found)
        items += [item for version in known for item in _plan_version(registry.name, version, reasons, rules.versions)]
    for ref, artifact in found.items():
        why = kept.get(ref, f"no run has used it since {_format_day(artifact.used)}, and nothing that is kept needs it")
        goes, interval = ref not in kept, artifact.record.interval
        items.append(_make_item("artifact", ref, [config.artifacts / ref], why, goes=goes, interval=interval))
    logs = _find_old_logs(config, (now - timedelta(days=rules.log_days)).timestamp())
    unused = _find_unused_extracts(config, found, runs)
    items += _plan_group("extracts", unused, "none of the runs that are kept has used them")
    leftovers = [path for path in removal.find_leftovers(config) if path.lstat().st_mtime < since]
    leftovers = removal.find_trash(config) + leftovers
    items += _plan_group("left over", leftovers, "of work or a removal that was cut off")
    items += _plan_group("logs", logs, f"of tasks, older than {rules.log_days:g} days")
    return RemovalPlan(items)


def keep_recent(found: Mapping[str, Artifact], runs: int, since: float) -> Reasons:
    """Return the artifacts ("stage/fingerprint") to keep because of their last use, with the reasons.

    They are the `runs` of each stage that were used last, and all that were used since `since`, in seconds since the
    epoch.
    """
    stages: defaultdict[str, list[str]] = defaultdict(list)
    for ref in sorted(found, key=lambda ref: found[ref].used, reverse=True):
        stages[_get_stage(ref)].append(ref)
    kept: Reasons = {}
    for refs in stages.values():
        kept |= dict.fromkeys(refs[:runs], f"one of the {runs} that were used last")
        kept |= {ref: f"used on {_format_day(found[ref].used)}" for ref in refs[runs:] if found[ref].used >= since}
    return kept


def keep_inputs(
    kept: Mapping[str, str], refs: Iterable[str], found: Mapping[str, Artifact], stages: Collection[str] = ()
) -> Reasons:
    """Return `kept` with all inputs of `refs`, which are in it. With `stages`, only inputs of these are added."""
    all_kept, queue = dict(kept), list(refs)
    while queue:
        ref = queue.pop()
        for name, source in sorted(found[ref].record.inputs.items()):
            wanted = name != "champion" and source in found and (not stages or _get_stage(source) in stages)
            if wanted and source not in all_kept:
                all_kept[source] = f"{ref} was made from it"
                queue.append(source)
    return all_kept


def keep_rows(kept: Mapping[str, str], version: str, refs: Iterable[str], found: Mapping[str, Artifact]) -> Reasons:
    """Return `kept` with those of a version's inputs (`refs`) that hold its rows."""
    rows = [ref for ref in refs if ref in found and _get_stage(ref) in ROWS]
    new = {ref: f"{version} was made from it" for ref in rows if ref not in kept}
    return keep_inputs({**kept, **new}, new, found, ROWS)


def keep_versions(known: Sequence[Version], aliases: Mapping[str, str], newest: int) -> Reasons:
    """Return those of a model's versions (oldest first) that keep their weights, the `newest` ones in any case."""
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


def _read_versions(registry: Registry) -> Iterator[Version]:
    for name in registry.names():
        try:
            yield registry.get(name)
        except RegistryError as error:
            log.warning("%s %s stays: %s", registry.name, name, error)


def _list_inputs(version: Version) -> list[str]:
    try:
        return [stage["artifact"] for stage in read_lineage(version)["stages"]]
    except RegistryError as error:
        log.warning("The rows of %s may go: %s", version.name, error)
        return []


def _plan_version(model: str, version: Version, kept: Reasons, newest: int) -> Iterator[DataItem]:
    trees = [path for path in version.path.iterdir() if not _DOCUMENTS.fullmatch(path.name)]
    if not trees:
        return
    trees.sort(key=lambda path: path != version.servable)  # the model first
    why, goes = kept.get(version.name, f"no alias names it, and {newest} are newer"), version.name not in kept
    size = sum(map(disk.measure_size, trees))
    yield DataItem("version", version.name, version.interval, goes, why, size, tuple(trees), model)


def _plan_unfinished(path: Path, since: float) -> DataItem:
    written = max((file.st_mtime for file in disk.list_files(path)), default=path.stat().st_mtime)
    why = f"not finished; last written on {_format_day(written)}"
    return _make_item("unfinished", artifacts.get_ref(path), [path], why, goes=written < since)


def _find_unused_extracts(config: Config, found: Mapping[str, Artifact], newest: Collection[str]) -> list[Path]:
    """Return the extracts that no kept run has used: a run sets the times of the extracts that it uses."""
    runs = [found[ref].record.started for ref in newest if ref.startswith("collect/")]
    if not runs:
        return []
    since = min(datetime.fromisoformat(started).timestamp() for started in runs)
    kept = sorted(path for path in config.collect.cache.rglob("*.parquet") if not path.name.startswith("."))
    return [path for path in kept if path.stat().st_mtime < since]


def _find_old_logs(config: Config, since: float) -> list[Path]:
    folders = (config.home / "logs" / "tasks", config.home / "airflow" / "logs")
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path.lstat().st_mtime < since]


def _plan_group(kind: ItemKind, paths: list[Path], why: str) -> Iterator[DataItem]:
    if paths:
        yield _make_item(kind, f"{len(paths)} in all", paths, why, goes=True)


def _make_item(kind: ItemKind, name: str, paths: list[Path], why: str, *, goes: bool, interval: str = "") -> DataItem:
    parts = [part for path in paths for part in (path.iterdir() if path.is_dir() else [path])]
    size = sum(
        disk.measure_size(part) for part in parts if part.name not in (artifacts.RECORD, artifacts.REMOVED_RECORD)
    )
    return DataItem(kind, name, interval, goes, why, size, tuple(paths))


def _get_stage(ref: str) -> str:
    return ref.partition("/")[0]


def _format_day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
