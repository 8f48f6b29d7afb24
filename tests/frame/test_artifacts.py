"""Artifacts when a run is killed, and their locks on file systems that ask for more than a local one."""

import fcntl
import os
from pathlib import Path
from typing import IO, Any

import pytest

from llmops.frame import artifacts


def test_a_lock_may_be_taken_on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFSv4 refuses a shared lock on what is not open for reading, and an exclusive one on what is not for writing."""
    flock, taken = fcntl.flock, []

    def lock_like_nfs(file: IO[Any], operation: int) -> None:
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        allowed = (os.O_RDONLY, os.O_RDWR) if operation & fcntl.LOCK_SH else (os.O_WRONLY, os.O_RDWR)
        if mode not in allowed:
            raise OSError(9, "Bad file descriptor")
        taken.append(operation)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_like_nfs)
    (tmp_path / ".a.lock").write_text("who has it")
    with (
        artifacts.hold_lock(tmp_path / "a", shared=True),
        artifacts.hold_lock(tmp_path / "a", shared=True, wait=False),
        pytest.raises(BlockingIOError),
        artifacts.hold_lock(tmp_path / "a", wait=False),
    ):
        pass
    with artifacts.hold_lock(tmp_path / "a"):
        pass
    assert len(taken) == 4 and (tmp_path / ".a.lock").read_text() == "who has it"


@pytest.mark.parametrize("after", range(4))
def test_what_a_kill_leaves_of_a_cleared_artifact_is_not_done(tmp_path: Path, after: int) -> None:
    class Killed(BaseException):
        pass

    (tmp_path / "parts").mkdir()
    for name in ("a.parquet", artifacts.RECORD, "z.parquet", "parts/0.parquet"):
        (tmp_path / name).write_text("{}")
    left = after

    def kill_at_call(remove: Any) -> Any:
        def remove_or_die(*args: Any, **more: Any) -> None:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            remove(*args, **more)

        return remove_or_die

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "unlink", kill_at_call(os.unlink))
        patch.setattr(os, "rmdir", kill_at_call(os.rmdir))
        artifacts.clear(tmp_path)
    assert artifacts.is_done(tmp_path) == (after == 0) and len(list(tmp_path.rglob("*"))) == 5 - after


def test_what_a_kill_left_half_written_is_no_part_of_the_artifact(tmp_path: Path) -> None:
    record = artifacts.Record("tune", tmp_path.name, {}, {}, "", "", {}, {}, "", "", "", "")
    (tmp_path / "best.json").write_text("{}")
    whole = artifacts.commit(tmp_path, record)
    (tmp_path / ".trials.json.4711").write_text("[")
    assert artifacts.commit(tmp_path, record) == whole and artifacts.find_changed_files(tmp_path) == []
    assert not (tmp_path / ".trials.json.4711").exists()
