"""Whether the place of the work files is one that workers on other hosts reach."""

from pathlib import Path

import pytest

from llmops.config import Clean
from llmops.data import work_location


def problem(master: str, work: str | Path, monkeypatch: pytest.MonkeyPatch, kind: str = "ext4") -> str:
    monkeypatch.setattr(work_location, "find_file_system_type", lambda folder: kind)
    return " ".join(
        check.detail
        for check in work_location.check_work_location(Clean(master=master, work=str(work)))
        if not check.ok
    )


@pytest.mark.parametrize("master", ["spark://spark-master:7077", "k8s://https://10.0.0.1:443", "yarn"])
def test_a_folder_of_this_host_is_none_for_others(master: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no place is named" in problem(master, "", monkeypatch)
    assert "other hosts" in problem(master, tmp_path / "not" / "there", monkeypatch)
    assert not problem(master, tmp_path, monkeypatch, "nfs4")
    assert not problem("spark://127.0.0.1:7077", tmp_path, monkeypatch) and not problem("local[2]", "", monkeypatch)


def test_a_store_is_asked_before_any_work(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    master = "spark://spark-master:7077"
    assert not problem(master, f"{store}/work", monkeypatch)
    assert "has no bucket or container" in problem(master, f"{store}-not-there/work", monkeypatch)
    if store.startswith("s3"):
        assert "credential" in problem(master, "abfs://container/work", monkeypatch)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # else it waits between them
        assert "cannot be reached" in problem(master, "s3://bucket/work", monkeypatch)


def test_the_file_system_is_told(tmp_path: Path) -> None:
    assert (
        work_location.find_file_system_type(Path("/proc/self")) == "proc"
        and work_location.find_file_system_type(tmp_path) != "proc"
    )
