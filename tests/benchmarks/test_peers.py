"""Arms of a benchmark that fail."""

import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_an_arm_that_fails_tells_the_end_of_its_errors(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    (tmp_path / "arm.py").write_text("import sys, json\nprint('noise')\nprint(json.dumps({'s': float(sys.argv[1])}))")
    peers, servers = script("peers"), script("servers")
    assert peers.in_process(str(tmp_path / "arm.py"), "2") == {"s": 2.0}
    failed, before = dict[str, str](), signal.getsignal(signal.SIGTERM)
    with peers.attempted("slow", failed):
        peers.in_process(str(tmp_path / "arm.py"), "two")
    try:
        for command in ([sys.executable, "-c", "raise ImportError('no kernel')"], ["no-such-server"]):
            with peers.attempted(command[0], failed), servers.running(command, 9, {}, tmp_path / "log"):
                pytest.fail("it runs")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(failed) == {"slow", sys.executable, "no-such-server"} and "no kernel" in failed[sys.executable]
    assert "could not convert string to float: 'two'" in failed["slow"]


def test_a_peer_that_cannot_be_installed_is_tried_once_and_the_other_arms_are_measured(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = script("peers")
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(peers, "_REFUSED", {})
    made: list[Path] = []

    def create(folder: Path, **_: bool) -> None:
        made.append(folder)
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text('#!/bin/sh\necho "working\nno match for $*" >&2; exit 1\n')
        (folder / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(peers.venv, "create", create)
    failed, measured, peer = dict[str, str](), list[object](), peers.Peer("other", ("no-such-peer==1.0",))
    for arm in ("theirs", "theirs again", "ours"):
        with peers.attempted(arm, failed):
            measured.append(arm if arm == "ours" else peer.python())
    assert measured == ["ours"] and made == [peer.folder] and peer.version() == {}
    assert set(failed) == {"theirs", "theirs again"}
    assert all("other cannot be installed" in why and "no-such-peer" in why for why in failed.values())


def _make_wheel(folder: Path, name: str, *needed: str) -> None:
    info = f"{name}-1.0.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0", *(f"Requires-Dist: {one}" for one in needed)]
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_dependency_that_is_not_offered_is_left_out(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_wheel(tmp_path, "fast_server", "tensors==1.0+cpu", "frames; python_version >= '3'")
    for name in ("tensors", "frames"):
        _make_wheel(tmp_path, name)
    for setting, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(setting, value)
    peers = script("peers")
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    peer = peers.Peer("server", ("fast_server==1.0", "tensors==1.0"), without=("tensors",))
    code = "from importlib.metadata import distributions; print(*sorted(d.name for d in distributions()))"
    done = subprocess.run([peer.python(), "-c", code], capture_output=True, text=True, check=True)
    assert {"fast_server", "frames", "tensors"} <= set(done.stdout.split())
