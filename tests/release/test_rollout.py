"""Changes of what answers: the same history and events, whoever asks for them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmops import cli
from llmops.config import Config, Monitoring
from llmops.errors import RegistryError
from llmops.monitoring.sinks import LocalStore
from llmops.monitoring.spool import drain
from llmops.registry.registry import Registry, registry_of
from llmops.release import rollout
from llmops.release.canary import Figures

FACTS = ("compared_with", "base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset")


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    (tmp_path / "servable").mkdir()
    settings = Config(home=tmp_path)
    registry = registry_of(settings)
    for n in (1, 2):
        facts = {**dict.fromkeys(FACTS, "x"), "status": "rejected", "compress": f"c{n}"}
        registry.publish(facts, {"servable": tmp_path / "servable"}, lambda v: {}, by="test", why="")
    registry.promote("v1")
    return settings


def run(settings: Config, *words: str) -> int:
    return cli.main(["models", *words, "--set", f"home={settings.home}"])


def events(settings: Config, dataset: str = "llmops.admin") -> list[dict[str, Any]]:
    drain(settings.events, Monitoring())
    return list(LocalStore(settings.events).find(dataset))


def test_the_command_line_does_all_of_it(settings: Config, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(settings.release.registry, settings.release.name)
    assert run(settings, "canary") == 0 and json.loads(capsys.readouterr().out) is None
    assert run(settings, "canary", "v2", "--share", "0.25") == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["version"], state["share"], state["canary"]["requests"]) == ("v2", 0.25, 0)
    canary = registry.canary()
    assert canary and canary.share == 0.25
    assert run(settings, "canary") == 0 and registry.canary() == canary
    assert run(settings, "canary", "--stop") == 0 and registry.canary() is None
    assert run(settings, "promote", "v2") == 0 and registry.aliases()["champion"] == "v2"
    assert run(settings, "rollback") == 0 and registry.aliases()["champion"] == "v1"
    found = events(settings)
    assert [e["event.action"] for e in found] == ["canary_start", "canary_stop", "promote", "rollback"]
    assert [e["llmops.model.version"] for e in found] == ["v2", "v2", "v2", "v1"]
    assert all(e["user.name"] and e["event.reason"].startswith("llmops models") for e in found)


@pytest.mark.parametrize(
    "words",
    [
        ("promote",), ("promote", "v9"), ("promote", "v2", "--stop"), ("rollback", "v1"), ("list", "v1"),
        ("canary", "v1"), ("canary", "v2", "--share", "1"), ("canary", "v2", "--share", "0"),
        ("canary", "--share", "0.2"), ("canary", "v2", "--stop"), ("canary", "--stop", "--share", "0.2"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line_and_is_no_event(
    settings: Config, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(settings, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("llmops: ") and len(error.splitlines()) == 1
    assert events(settings) == []


def test_counts_that_come_and_go_while_they_are_read_are_no_error(settings: Config) -> None:
    """A replica writes, a new trial throws the old one's counts away, and everybody may look at any moment."""
    registry = registry_of(settings)
    trial = rollout.start(registry, settings.events, "v2", 0.1, by="ana", why="try")
    rollout.count(registry, trial, "one", Figures(answered=3), Figures(answered=5))
    (registry.folder / "canary" / "two.json").symlink_to("gone.json")  # listed, and gone when it is read
    state = rollout.state(registry)
    assert state and (state["canary"]["requests"], state["champion"]["requests"]) == (3, 5)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [rollout.count(registry, trial, "one", Figures(), Figures()) for _ in range(200)])
        share = 0.2
        while not writing.done():
            share = 0.5 - share
            registry.start_canary("v2", share)
            rollout.state(registry)
        writing.result()


def test_a_canary_without_its_model_is_an_error_and_not_the_end_of_its_trial(settings: Config) -> None:
    registry = registry_of(settings)
    trial = rollout.start(registry, settings.events, "v2", 0.1, by="ana", why="try")
    rollout.count(registry, trial, "one", Figures(answered=40), Figures(answered=40))
    lost = registry.get("v2").servable
    lost.rename(lost.with_name("lost"))
    with pytest.raises(RegistryError, match="v2 has no model"):
        rollout.conclude(registry, settings.events, trial.started, by="run 1")
    assert registry.canary() == trial


@pytest.mark.parametrize("failed", [0, 30])
def test_a_trial_that_ends_while_it_is_concluded_is_over(
    settings: Config, monkeypatch: pytest.MonkeyPatch, failed: int
) -> None:
    registry = registry_of(settings)
    trial = rollout.start(registry, settings.events, "v2", 0.1, by="ana", why="try")
    rollout.count(registry, trial, "one", Figures(answered=40, failed=failed), Figures(answered=400))
    compare = rollout.compare

    def meanwhile(*sides: Any) -> Any:
        rollout.stop(registry, settings.events, by="ana", why="enough")
        return compare(*sides)

    monkeypatch.setattr(rollout, "compare", meanwhile)
    decision = rollout.conclude(registry, settings.events, trial.started, by="run 1")
    assert (decision["outcome"], decision["by"], decision["why"]) == ("over", "ana", "enough")
    assert registry.aliases()["champion"] == "v1" and events(settings, "llmops.canary") == []


def test_asking_again_is_one_event(settings: Config) -> None:
    registry = registry_of(settings)
    for _ in range(2):
        rollout.start(registry, settings.events, "v2", 0.1, by="ana", why="try", who={"user.roles": ["admin"]})
    for _ in range(2):
        rollout.stop(registry, settings.events, by="ana", why="enough")
    found = events(settings)
    assert [e["event.action"] for e in found] == ["canary_start", "canary_stop"]
    assert found[0]["user.roles"] == ["admin"] and found[0]["llmops.aliases"]["canary"] == "v2"
