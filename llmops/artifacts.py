"""The only place that builds artifact paths: fingerprint, content, record.json, lineage.

An artifact is the folder `{home}/artifacts/{stage}/{fingerprint}/`. Its `record.json` is written last and atomically:
present means done, absent means incomplete. Whoever builds an artifact holds its lock, which the kernel releases when
the process dies, so of two runs racing for one artifact the second waits and finds it done.

The fingerprint names what an artifact is made from, its content what it holds: whoever reads it is fingerprinted by the
content. So a stage that makes the same again, of other inputs or of another day, makes no work for those behind it.
"""

from __future__ import annotations

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

from llmops.errors import ArtifactError

RECORD = "record.json"
FOR_PEOPLE = ("*.md", "*.png", "*.html")  #: patterns of files that no stage reads
_PARTIAL = re.compile(r"\..+\.\d+")  #: a file that `write_whole` had not finished when its process was killed
GONE = "gone.json"  #: the record of an artifact whose data was removed since


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
    environment: dict[str, str] = field(default_factory=dict)  #: library → major.minor, and "gpu", where it computes
    content: str = field(default="")  #: digest of what others read of it
    contents: dict[str, str] = field(default_factory=dict)  #: input name → its content then
    removed: str = ""  #: ISO time, UTC, at which the data was removed; empty: it is there
    receipt: int = 0  #: number of the erasure's that removed it, if it was one


def fingerprint(
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    interval: str,
    code: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """16 hex digits of the SHA-256 over everything that decides an artifact's content."""
    return _digest([stage, config, dict(inputs), interval, code, *([dict(environment)] if environment else [])])


def artifact_path(root: Path, stage: str, key: str) -> Path:
    """Folder of the artifact of `stage` with the fingerprint `key`, below the artifacts folder `root`."""
    return root / stage / key


def ref(path: Path) -> str:
    """How records name the artifact at `path`: "stage/fingerprint"."""
    return f"{path.parent.name}/{path.name}"


def is_done(path: Path) -> bool:
    """Whether the artifact at `path` is whole."""
    return (path / RECORD).is_file()


def is_gone(path: Path) -> bool:
    """Whether the artifact at `path` was finished and its data was removed: all that is known of it is its record."""
    return not is_done(path) and (path / GONE).is_file()


def read_record(path: Path) -> Record:
    """The record of a finished artifact, or of one whose data was removed since.

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
    """Say when data was removed, and under which receipt if a person was forgotten."""
    return f"erased on {removed[:10]} (receipt {receipt})" if receipt else f"removed on {removed[:10]}"


def touch(path: Path) -> None:
    """Note that a run has used a finished artifact: what was used lately is not removed."""
    os.utime(path / RECORD)


def finished(stage: Path) -> list[Path]:
    """All finished artifacts of a stage; `stage` is the folder that they are in."""
    return [path for path in sorted(stage.glob("*")) if is_done(path)]


def newest(stage: Path) -> Path:
    """Return the artifact of a stage that a run made or used last; `stage` is the folder that it is in.

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

    Args:
        path: what is locked; it need not exist.
        shared: let others hold it too that ask for it shared.
        wait: wait for whoever has it.

    Raises:
        BlockingIOError: if somebody has it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "a+") as handle:  # both: NFSv4 refuses a shared lock without
        # the right to read, and an exclusive one without that to write
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


def clear(path: Path) -> None:
    """Make `path` an empty folder, but for the record of what was removed from it before."""
    path.mkdir(parents=True, exist_ok=True)
    (path / RECORD).unlink(missing_ok=True)  # first, else what is left when this is killed would look done
    _sync(path)
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != GONE:
            entry.unlink()


def commit(path: Path, record: Record, aside: Sequence[str] = (), read: Sequence[str] = ()) -> Record:
    """Hash the artifact's files, make sure that they are on the disk, and write its record, which makes it finished.

    Args:
        path: the artifact.
        record: what is known of it.
        aside: patterns of files that no other stage reads, as `fnmatch` takes them; neither they nor those for people
            are part of the content.
        read: metrics that other stages read: they are.
    """
    for left in (file for file in path.rglob(".*") if _PARTIAL.fullmatch(file.name)):
        left.unlink()  # a stage that goes on after a kill has not cleared it
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
    """Names of the files of a finished artifact that are missing or were changed since."""
    record = read_record(path)
    return [n for n, digest in record.files.items() if not (path / n).is_file() or file_sha256(path / n) != digest]


def check_whole(path: Path) -> None:
    """Make sure that a finished artifact holds what it held when it was finished, by hashing it again.

    Raises:
        ArtifactError: naming the files that are missing or were changed.
    """
    if wrong := verify(path):
        raise ArtifactError(
            f"{path} is damaged: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} missing or not what it was "
            f"made with; look at the disk, then delete {path} and run the stage {path.parent.name} again."
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _synced_sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing of folders
            raise
    finally:
        os.close(handle)


def _digest(parts: Any) -> str:
    document = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, durably, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(partial, path)
    _sync(path.parent)


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


def damaged(path: Path, why: object) -> ArtifactError:
    """The error that says that the record of an artifact cannot be used, and what to do."""
    return ArtifactError(f"{path / RECORD} is damaged ({why}); delete {path} and run the stage again.")


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
