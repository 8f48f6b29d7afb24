"""Peers that are installed, that cannot be, and arms that fail: always offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def peers(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = script("peers")
    monkeypatch.setattr(module, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(module, "_REFUSED", {})
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    return module


@pytest.mark.journey
def test_a_peer_that_cannot_be_installed_is_named_and_the_rest_goes_on(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: dict[str, str] = {}
    peer, measured = peers.Peer("other", ("no-such-peer==1.0",), beside=True), []
    for arm in ("theirs", "theirs again", "ours"):
        with peers.attempted(arm, failed):
            measured.append("ours" if arm == "ours" else peer.python())
        monkeypatch.setattr(peers.venv, "create", lambda *_, **__: pytest.fail("it was tried twice"))
    assert measured == ["ours"] and set(failed) == {"theirs", "theirs again"}
    assert "no-such-peer" in failed["theirs"] and "\n" not in failed["theirs"]
    assert peer.version() == {}
    with pytest.raises(KeyError), peers.attempted("ours", {}):
        raise KeyError("loss")  # a mistake in a benchmark is no missing arm


def test_an_arm_that_fails_tells_the_end_of_its_errors(peers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "arm.py").write_text("import sys, json\nprint('noise')\nprint(json.dumps({'s': float(sys.argv[1])}))")
    assert peers.in_process(str(tmp_path / "arm.py"), "2") == {"s": 2.0}
    failed: dict[str, str] = {}
    with peers.attempted("slow", failed):
        peers.in_process(str(tmp_path / "arm.py"), "two")
    assert "could not convert string to float: 'two'" in failed["slow"]
