"""The only place that builds artifact paths: fingerprint, record.json, lineage.

An artifact is the folder `{home}/artifacts/{stage}/{fingerprint}/`. Its `record.json` is written last and atomically:
present means done, absent means incomplete. Whoever builds an artifact holds its lock, which the kernel releases when
the process dies, so of two runs racing for one artifact the second waits and finds it done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops.errors import ArtifactError

RECORD = "record.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a finished artifact; the content of its `record.json`."""

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]  #: input name → "stage/fingerprint", or "registry/version" for the champion
    interval: str
    code: str
    metrics: dict[str, Any]
    files: dict[str, str]  #: path within the artifact → SHA-256
    git_commit: str
    started: str
    finished: str
    run: str = field(default="")  #: the orchestrator's run id
    erasures: list[dict[str, Any]] = field(default_factory=list)  #: by `llmops data forget`: time, and how many rows


def fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str], interval: str, code: str) -> str:
    """16 hex digits of the SHA-256 over everything that decides an artifact's content."""
    document = json.dumps([stage, config, dict(inputs), interval, code], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def artifact_path(root: Path, stage: str, key: str) -> Path:
    """Folder of the artifact of `stage` with the fingerprint `key`, below the artifacts folder `root`."""
    return root / stage / key


def is_done(path: Path) -> bool:
    """Whether the artifact at `path` is whole."""
    return (path / RECORD).is_file()


def read_record(path: Path) -> Record:
    """The record of a finished artifact.

    Raises:
        ArtifactError: if there is none, or it cannot be read.
    """
    try:
        return Record(**json.loads((path / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} is no finished artifact (no {RECORD}); run `llmops run {path.parent.name}` first."
        ) from None
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path / RECORD} is damaged ({error}); delete {path} and run the stage again.") from None


def newest(stage: Path) -> Path:
    """The artifact of a stage that was finished last, for a person who asks; a stage is given its own.

    Args:
        stage: the folder of all artifacts of the stage.

    Raises:
        ArtifactError: if there is none.
    """
    done = [path for path in stage.glob("*") if is_done(path)]
    if not done:
        raise ArtifactError(f"There is no finished artifact in {stage}; run `llmops run {stage.name}` first.")
    return max(done, key=lambda path: read_record(path).finished)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock of `path` (a file `.{name}.lock` beside it).

    Args:
        path: what is locked; it need not exist.
        shared: let others hold it too that ask for it shared.
        wait: wait for whoever has it.

    Raises:
        BlockingIOError: if somebody has it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as handle:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


def clear(path: Path) -> None:
    """Make `path` an empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)


def commit(path: Path, record: Record) -> Record:
    """Hash the artifact's files and write its record, which makes it finished."""
    found = (f for f in sorted(path.rglob("*")) if f.is_file() and f.name != RECORD)
    files = {str(f.relative_to(path)): file_sha256(f) for f in found}
    whole = Record(**{**asdict(record), "files": files})
    write_json(path / RECORD, asdict(whole))
    return whole


def amend(path: Path, note: Mapping[str, Any]) -> Record:
    """Record again what a finished artifact holds, after an erasure, and why: `note` is kept in the record.

    The artifact keeps its folder and its fingerprint, which says what it was made from. A note that is there already is
    not added again.
    """
    record = read_record(path)
    erasures = record.erasures if dict(note) in record.erasures else [*record.erasures, dict(note)]
    return commit(path, replace(record, erasures=erasures))


def verify(path: Path) -> list[str]:
    """Names of the files of a finished artifact that are missing or were changed since."""
    record = read_record(path)
    return [n for n, digest in record.files.items() if not (path / n).is_file() or file_sha256(path / n) != digest]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, durably, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, default=str).encode())


def link(source: str | Path, target: str | Path) -> str:
    """Make `target` the same file as `source`; a copy where hard links do not reach. For `shutil.copytree`, too."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)
    return str(target)


def input_path(path: Path, name: str) -> Path:
    """Folder of the artifact that a finished one had as its input `name`.

    Raises:
        ArtifactError: if the artifact at `path` is not finished, or had no such input.
    """
    inputs = read_record(path).inputs
    if name not in inputs:
        raise ArtifactError(f"{path} was made without {name}; run `llmops run {path.parent.name}` again.")
    return path.parent.parent / inputs[name]


def walk(path: Path) -> Iterator[Record]:
    """The records of an artifact and of all it was made from, nearest first, each once."""
    root, seen, queue = path.parent.parent, set[str](), [path]
    while queue:
        here = queue.pop(0)
        if str(here) in seen:
            continue
        seen.add(str(here))
        record = read_record(here)
        yield record
        queue += [root / ref for name, ref in sorted(record.inputs.items()) if name != "champion"]


def git_commit() -> str:
    """The commit of the code that runs, with `+` when the tree has changes; empty outside a checkout."""
    where = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=where,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if dirty else "")
