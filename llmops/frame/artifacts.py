"""Artifacts: path, fingerprint, content, record and lineage. Only this module builds artifact paths.

An artifact is the folder `{home}/artifacts/{stage}/{fingerprint}/`. Its `record.json` is written last and atomically:
an artifact with one is finished. A process that builds an artifact holds its lock, which the kernel releases when the
process dies. If two runs race for one artifact, the second waits and finds it finished.

The fingerprint is a hash of an artifact's inputs, the content a hash of its files. Stages that read it have the content
in their fingerprint. If a stage makes the same content again, from other inputs or on another day, later stages have
nothing to do.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmops.frame.errors import ArtifactError

SKIPPED = "skipped"  #: metric of a stage that had nothing to train on: the reason
RECORD = "record.json"
FOR_PEOPLE = ("*.md", "*.png", "*.html")  #: patterns of files that no stage reads
_PARTIAL = re.compile(r"\..+\.\d+")  #: an unfinished file of `write_whole`, after a kill
GONE = "gone.json"  #: record of an artifact whose data was removed


@dataclass(frozen=True, slots=True)
class Record:
    """The facts about a finished artifact: the content of its `record.json`."""

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
    environment: dict[str, str] = field(default_factory=dict)  #: library → major.minor, and "gpu" if it uses one
    content: str = field(default="")  #: digest of the files that other stages read
    contents: dict[str, str] = field(default_factory=dict)  #: input name → its content at that time
    removed: str = ""  #: ISO time, UTC, of the removal of the data; empty: not removed
    receipt: int = 0  #: number of the erasure that removed it, if any


def fingerprint(
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    interval: str,
    code: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return 16 hex digits of the SHA-256 over everything that influences an artifact's content."""
    return _digest([stage, config, dict(inputs), interval, code, *([dict(environment)] if environment else [])])


def artifact_path(root: Path, stage: str, key: str) -> Path:
    """Return the folder of the artifact of `stage` with fingerprint `key`, below the artifacts folder `root`."""
    return root / stage / key


def ref(path: Path) -> str:
    """Return the name of an artifact in records: "stage/fingerprint"."""
    return f"{path.parent.name}/{path.name}"


def is_done(path: Path) -> bool:
    """Return True if the artifact is finished."""
    return (path / RECORD).is_file()


def is_gone(path: Path) -> bool:
    """Return True if the artifact was finished and its data removed, so that only its record is left."""
    return not is_done(path) and (path / GONE).is_file()


def read_record(path: Path) -> Record:
    """Return the record of a finished artifact, or of one whose data was removed.

    Raises:
        ArtifactError: if there is none, or it cannot be read.
    """
    for name in (RECORD, GONE):
        try:
            return Record(**json.loads((path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            raise damaged(path, error) from None
    raise ArtifactError(f"{path} is no finished artifact (no {RECORD}); run `llmops run {path.parent.name}` first.")


def gone_since(removed: str, receipt: int) -> str:
    """Return when data was removed, and the receipt if it was an erasure, in words."""
    return f"erased on {removed[:10]} (receipt {receipt})" if receipt else f"removed on {removed[:10]}"


def touch(path: Path) -> None:
    """Mark a finished artifact as used now. Recently used artifacts are not removed."""
    os.utime(path / RECORD)


def finished(stage: Path) -> list[Path]:
    """Return all finished artifacts in the folder of a stage."""
    return [path for path in sorted(stage.glob("*")) if is_done(path)]


def newest(stage: Path) -> Path:
    """Return the artifact of a stage that a run made or used last; `stage` is its folder.

    Raises:
        ArtifactError: if there is none.
    """
    done = finished(stage)
    if not done:
        raise ArtifactError(f"There is no finished artifact in {stage}; run `llmops run {stage.name}` first.")
    return max(done, key=lambda path: ((path / RECORD).stat().st_mtime_ns, read_record(path).finished))


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock of `path` (a file `.{name}.lock` beside it).

    Raises:
        BlockingIOError: if it is held by another and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # opened for both: on NFSv4 a shared lock needs the right to read, an exclusive one the right to write
    with path.with_name(f".{path.name}.lock").open("a+") as handle:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


def clear(path: Path) -> None:
    """Make `path` an empty folder. Keep only the record of removed data."""
    path.mkdir(parents=True, exist_ok=True)
    (path / RECORD).unlink(missing_ok=True)  # first: after a kill the rest must not look finished
    _sync(path)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != GONE:
            entry.unlink()


def commit(path: Path, record: Record, aside: Sequence[str] = (), read: Sequence[str] = ()) -> Record:
    """Hash the artifact's files, sync them to disk, and write its record, which finishes it.

    Args:
        path: the artifact.
        record: its facts.
        aside: patterns (as for `fnmatch`) of files that no other stage reads. Like `FOR_PEOPLE` they are not part of
            the content.
        read: metrics that other stages read. They are part of the content.
    """
    for left in (file for file in path.rglob(".*") if _PARTIAL.fullmatch(file.name)):
        left.unlink()  # left by a kill, in a stage that resumes without clearing
    found = list(path.rglob("*"))
    held = sorted(f for f in found if f.is_file() and f.name not in (RECORD, GONE))
    files = {str(f.relative_to(path)): _synced_sha256(f) for f in held}
    for folder in [*(f for f in found if f.is_dir()), path, *path.absolute().parents[:2]]:
        _sync(folder)
    unread = (*FOR_PEOPLE, *aside)
    content = {name: digest for name, digest in files.items() if not any(fnmatch(name, pattern) for pattern in unread)}
    digest = _digest([content, {name: record.metrics.get(name) for name in read}])
    write_json(path / RECORD, asdict(whole := replace(record, files=files, content=digest)))
    (path / GONE).unlink(missing_ok=True)
    return whole


def verify(path: Path) -> list[str]:
    """Return the names of the files of a finished artifact that are missing or changed."""
    record = read_record(path)
    return [n for n, digest in record.files.items() if not (path / n).is_file() or file_sha256(path / n) != digest]


def check_whole(path: Path) -> None:
    """Check a finished artifact by hashing its files again.

    Raises:
        ArtifactError: naming the missing and changed files.
    """
    if wrong := verify(path):
        raise ArtifactError(
            f"{path} is damaged: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or not what it was "
            f"made with; look at the disk, then delete {path} and run the stage {path.parent.name} again."
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _synced_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system does not support it for folders
            raise
    finally:
        os.close(handle)


def _digest(parts: Any) -> str:
    document = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, durably and atomically."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, atomically."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, default=str).encode())


def link(source: str | Path, target: str | Path) -> str:
    """Hard-link `target` to `source`, or copy it if links are not possible. Usable by `shutil.copytree`."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)
    return str(target)


def is_skipped(path: Path) -> bool:
    """Return whether a finished artifact is of a stage that had nothing to train on."""
    return is_done(path) and SKIPPED in read_record(path).metrics


def input_path(path: Path, name: str) -> Path:
    """Return the folder of a finished artifact's input `name`.

    Raises:
        ArtifactError: if the artifact at `path` is not finished, or has no such input.
    """
    inputs = read_record(path).inputs
    if name not in inputs:
        raise ArtifactError(f"{path} was made without {name}; run `llmops run {path.parent.name}` again.")
    return path.parent.parent / inputs[name]


def damaged(path: Path, why: object) -> ArtifactError:
    """Return the error about an unusable record, with the remedy."""
    return ArtifactError(f"{path / RECORD} is damaged ({why}); delete {path} and run the stage again.")


def walk(path: Path) -> Iterator[Record]:
    """Yield the records of an artifact and all its ancestors, nearest first, each once."""
    root, seen, queue = path.parent.parent, set[str](), [path]
    while queue:
        here = queue.pop(0)
        if str(here) in seen:
            continue
        seen.add(str(here))
        record = read_record(here)
        yield record
        queue += [root / ref for name, ref in sorted(record.inputs.items()) if name != "champion"]
