"""The demo's own parts: what it keeps and needs. The whole of it is `make demo`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from llmops.access.keys import keys_of
from llmops.config import Config, load

FILE = Path(__file__).parents[2] / "examples" / "support_bot" / "demo.py"


@pytest.fixture
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(environ={"LLMOPS_HOME": str(tmp_path)})


def test_running_it_again_asks_for_the_interval_of_the_first_time(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "parse_interval", lambda: "2026-01-31")
    assert demo.interval(config) == "2026-01-31"
    monkeypatch.setattr(demo, "parse_interval", lambda: "2026-02-01")
    assert demo.interval(config) == "2026-01-31"


def test_a_new_key_takes_the_place_of_the_owners_old_one_only(demo: ModuleType, config: Config) -> None:
    other = keys_of(config).create("admin", "somebody")[1].prefix
    first, second = demo.key(config, "developer", "demo"), demo.key(config, "developer", "demo")
    good = {k.prefix for k in keys_of(config).list() if not k.revoked}
    assert first != second
    assert good == {other, keys_of(config).check(second).prefix}


def test_what_is_missing_stops_it_before_any_work(
    demo: ModuleType, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [demo.doctor.Check("Java", False, "not found", "install it"), demo.doctor.Check("disk", True, "enough")]
    monkeypatch.setattr(demo.doctor, "check", lambda config: found)
    with pytest.raises(demo.RunFailed, match="install it") as caught:
        demo.preflight(config)
    assert "disk" not in str(caught.value)
