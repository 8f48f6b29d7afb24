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
REPORT_PATTERNS = ("*.md", "*.png", "*.html")  #: patterns of files that no stage reads
_PARTIAL_NAME = re.compile(r"\..+\.\d+")  #: an unfinished file of `write_atomically`, after a kill
REMOVED_RECORD = "gone.json"  #: record of an artifact whose data was removed


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


def compute_fingerprint(
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    interval: str,
    code: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return 16 hex digits of the SHA-256 over everything that influences an artifact's content."""
    return _compute_digest([stage, config, dict(inputs), interval, code, *([dict(environment)] if environment else [])])


def get_artifact_path(root: Path, stage: str, key: str) -> Path:
    """Return the folder of the artifact of `stage` with fingerprint `key`, below the artifacts folder `root`."""
    return root / stage / key


def get_ref(path: Path) -> str:
    """Return the name of an artifact in records: "stage/fingerprint"."""
    return f"{path.parent.name}/{path.name}"


def is_done(path: Path) -> bool:
    """Return True if the artifact is finished."""
    return (path / RECORD).is_file()


def is_removed(path: Path) -> bool:
    """Return True if the artifact was finished and its data removed, so that only its record is left."""
    return not is_done(path) and (path / REMOVED_RECORD).is_file()


def read_record(path: Path) -> Record:
    """Return the record of a finished artifact, or of one whose data was removed.

    Raises:
        ArtifactError: if there is none, or it cannot be read.
    """
    for name in (RECORD, REMOVED_RECORD):
        try:
            return Record(**json.loads((path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            raise make_damage_error(path, error) from None
    raise ArtifactError(f"{path} is no finished artifact (no {RECORD}); run `llmops run {path.parent.name}` first.")


def describe_removal(removed: str, receipt: int) -> str:
    """Return when data was removed, and the receipt if it was an erasure, in words."""
    return f"erased on {removed[:10]} (receipt {receipt})" if receipt else f"removed on {removed[:10]}"


def touch(path: Path) -> None:
    """Mark a finished artifact as used now. Recently used artifacts are not removed."""
    os.utime(path / RECORD)


def list_finished(stage: Path) -> list[Path]:
    """Return all finished artifacts in the folder of a stage."""
    return [path for path in sorted(stage.glob("*")) if is_done(path)]


def find_newest(stage: Path) -> Path:
    """Return the artifact of a stage that a run made or used last; `stage` is its folder.

    Raises:
        ArtifactError: if there is none.
    """
    done = list_finished(stage)
    if not done:
        raise ArtifactError(f"There is no finished artifact in {stage}; run `llmops run {stage.name}` first.")
    return max(done, key=lambda path: ((path / RECORD).stat().st_mtime_ns, read_record(path).finished))


@contextmanager
def hold_lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
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
        elif entry.name != REMOVED_RECORD:
            entry.unlink()


def commit(path: Path, record: Record, unread_files: Sequence[str] = (), read_metrics: Sequence[str] = ()) -> Record:
    """Hash the artifact's files, sync them to disk, and write its record, which finishes it.

    Args:
        path: the artifact.
        record: its facts.
        unread_files: patterns (as for `fnmatch`) of files that no other stage reads. Like `REPORT_PATTERNS` they are
            not part of the content.
        read_metrics: metrics that other stages read. They are part of the content.
    """
    for partial in (file for file in path.rglob(".*") if _PARTIAL_NAME.fullmatch(file.name)):
        partial.unlink()  # left by a kill, in a stage that resumes without clearing
    entries = list(path.rglob("*"))
    contained = sorted(f for f in entries if f.is_file() and f.name not in (RECORD, REMOVED_RECORD))
    files = {str(f.relative_to(path)): _sync_and_hash(f) for f in contained}
    for folder in [*(f for f in entries if f.is_dir()), path, *path.absolute().parents[:2]]:
        _sync(folder)
    unread = (*REPORT_PATTERNS, *unread_files)
    content = {name: digest for name, digest in files.items() if not any(fnmatch(name, pattern) for pattern in unread)}
    digest = _compute_digest([content, {name: record.metrics.get(name) for name in read_metrics}])
    write_json(path / RECORD, asdict(finished := replace(record, files=files, content=digest)))
    (path / REMOVED_RECORD).unlink(missing_ok=True)
    return finished


def find_changed_files(path: Path) -> list[str]:
    """Return the names of the files of a finished artifact that are missing or changed."""
    record = read_record(path)
    return [n for n, digest in record.files.items() if not (path / n).is_file() or compute_sha256(path / n) != digest]


def check_files(path: Path) -> None:
    """Check a finished artifact by hashing its files again.

    Raises:
        ArtifactError: naming the missing and changed files.
    """
    if changed := find_changed_files(path):
        raise ArtifactError(
            f"{path} is damaged: {', '.join(changed)} {'is' if len(changed) == 1 else 'are'} missing or not what it "
            f"was made with; look at the disk, then delete {path} and run the stage {path.parent.name} again."
        )


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
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


def _compute_digest(parts: Any) -> str:
    document = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def write_atomically(path: Path, data: bytes) -> None:
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
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, default=str).encode())


def link_or_copy(source: str | Path, target: str | Path) -> str:
    """Hard-link `target` to `source`, or copy it if links are not possible. Usable by `shutil.copytree`."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copy2(source, target)
    return str(target)


def is_skipped(path: Path) -> bool:
    """Return True if an artifact is finished and its stage had nothing to train on."""
    return is_done(path) and SKIPPED in read_record(path).metrics


def get_input_path(path: Path, name: str) -> Path:
    """Return the folder of a finished artifact's input `name`.

    Raises:
        ArtifactError: if the artifact at `path` is not finished, or has no such input.
    """
    inputs = read_record(path).inputs
    if name not in inputs:
        raise ArtifactError(f"{path} was made without {name}; run `llmops run {path.parent.name}` again.")
    return path.parent.parent / inputs[name]


def make_damage_error(path: Path, why: object) -> ArtifactError:
    """Return the error about an unusable record, with the remedy."""
    return ArtifactError(f"{path / RECORD} is damaged ({why}); delete {path} and run the stage again.")


def walk_lineage(path: Path) -> Iterator[Record]:
    """Yield the records of an artifact and all its ancestors, nearest first, each once."""
    root, seen, queue = path.parent.parent, set[str](), [path]
    while queue:
        artifact = queue.pop(0)
        if str(artifact) in seen:
            continue
        seen.add(str(artifact))
        record = read_record(artifact)
        yield record
        queue += [root / ref for name, ref in sorted(record.inputs.items()) if name != "champion"]
