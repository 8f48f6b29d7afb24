"""Changes of what answers: the same history and events, whoever asks for them."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from llmops import cli
from llmops.config import Config, Monitoring
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import RegistryError
from llmops.monitoring.alerts import checks
from llmops.monitoring.alerts.request_checks import CheckInputs
from llmops.release import rollout, trials
from llmops.release.registry.aliases import Canary
from llmops.release.registry.registry import registry_of
from llmops.release.trials import TrialCounts
from llmops.release.verdict import Rules, TrialVerdict

from .conftest import put_version, two_versions

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
RULES, LATE = Rules(requests=400), Rules(requests=400, minutes=0)


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    settings = Config(home=tmp_path)
    two_versions(settings)
    return settings


def start(settings: Config, share: float = 0.1, kind: Any = "canary") -> Canary:
    return rollout.start(registry_of(settings), settings.events, "v2", share, by="ana", why="try", kind=kind)


def run(settings: Config, *words: str) -> int:
    return cli.main(["models", *words, "--set", f"home={settings.home}"])


def events(settings: Config, dataset: str = "llmops.admin") -> list[dict[str, Any]]:
    drain_spool(settings.events, Monitoring())
    return list(LocalStore(settings.events).find(dataset))


def counted(requests: int, failed: int = 0, up: int = 5) -> TrialCounts:
    """Return as many requests of 60 callers on both sides; the first ones of the canary failed, and of ten ratings of
    its answers so many are thumbs up, of the champion's 5."""
    sides = TrialCounts()
    for name, side, likes in (("a", sides.canary, up), ("b", sides.champion, 5)):
        for n in range(requests):
            caller = f"{name} {n % 60}"
            if side is sides.canary and n < failed:
                side.count(caller, "failed")
            else:
                side.add(caller, 1.0, 5, 5)
            side.count(caller, "up" if n % 10 < likes else "down")
    return sides


def test_the_command_line_does_all_of_it_and_asking_again_is_no_event(settings: Config, capsys: Capture) -> None:
    registry = registry_of(settings)
    assert run(settings, "canary") == 0 and json.loads(capsys.readouterr().out) is None
    for _ in range(2):
        assert run(settings, "canary", "v2", "--share", "0.25", "--override", "not needed, and not told") == 0
        state = json.loads(capsys.readouterr().out)
    assert (state["version"], state["share"], state["canary"]["requests"]) == ("v2", 0.25, 0)
    canary = registry.canary()
    assert canary and canary.share == 0.25
    assert run(settings, "canary") == 0 and registry.canary() == canary
    assert run(settings, "ab", "--stop") == 1 and "No A/B" in capsys.readouterr().err and registry.canary() == canary
    for _ in range(2):
        assert run(settings, "canary", "--stop") == 0 and registry.canary() is None
    assert run(settings, "promote", "v2") == 0 and registry.aliases()["champion"] == "v2"
    assert run(settings, "rollback") == 0 and registry.aliases()["champion"] == "v1"
    found = events(settings)
    assert [e["event.action"] for e in found] == ["canary_start", "canary_stop", "promote", "rollback"]
    assert [e["llmops.model.version"] for e in found] == ["v2", "v2", "v2", "v1"]
    assert all(e["user.name"] and e["event.reason"].startswith("llmops models") for e in found)
    assert not [e for e in found if "llmops.override" in e] and found[0]["llmops.aliases"]["canary"] == "v2"


@pytest.mark.parametrize("words", [("canary", "--conclude"), ("ab", "--conclude", "--promote")])
def test_a_trial_promotes_what_does_no_harm_and_who_concludes_it_is_reminded_of_the_hub(
    settings: Config, capsys: Capture, monkeypatch: Patch, words: tuple[str, ...]
) -> None:
    """Too little is seen, then half of the answers fail, then all is well; users like the version better."""
    monkeypatch.setenv("LLMOPS_PUSH_TO_HUB__REPO", "ana/bot")
    registry, kind = registry_of(settings), "canary" if words[0] == "canary" else "ab_test"
    ends = ((30, 0, "insufficient_data"), (1000, 400, "regression"), (1000, 0, "no_regression"))
    for asked, failed, outcome in ends:
        assert run(settings, words[0], "v2", "--share", "0.5") == 0
        state, trial = json.loads(capsys.readouterr().out), registry.canary()
        assert trial and (state["kind"], state["version"], state["share"]) == (kind, "v2", 0.5)
        trials.write_counts(registry, trial, "one", counted(asked, failed, up=9))
        assert run(settings, *words) == 0
        said = capsys.readouterr()
        done, promoted = json.loads(said.out), registry.aliases()["champion"] == "v2"
        assert done["outcome"] == outcome and (registry.canary() is None) == (asked == 1000)
        assert done["promoted"] == promoted == ("llmops models push" in said.err) == (outcome == "no_regression")
    assert [e["event.action"] for e in events(settings)] == [f"{kind}_start"] * 2
    decided = events(settings, "llmops.canary")
    assert [(e["llmops.canary.kind"], e["llmops.canary.outcome"]) for e in decided] == [
        (kind, "regression"), (kind, "no_regression"),
    ]  # fmt: skip
    numbers = decided[-1]["llmops.canary.numbers"]
    assert numbers["canary"]["callers"] and numbers["bound"] and numbers["measures"]["errors"]["p"] > 0


def test_a_trial_that_has_seen_too_little_stays_until_its_deadline_and_is_never_promoted(settings: Config) -> None:
    registry, trial = registry_of(settings), start(settings)
    trials.write_counts(registry, trial, "one", counted(30))
    assert not rollout.is_due(registry, trial.started, RULES) and rollout.is_due(registry, trial.started, LATE)
    asked: dict[str, Any] = {"by": "run 1"}
    assert rollout.conclude(registry, settings.events, trial.started, RULES, **asked)["outcome"] == "insufficient_data"
    assert registry.canary() == trial and events(settings, "llmops.canary") == []
    assert rollout.conclude(registry, settings.events, trial.started, LATE, **asked)["outcome"] == "insufficient_data"
    assert registry.canary() is None and registry.aliases()["champion"] == "v1"
    assert registry.decisions("v2")[-1]["outcome"] == "insufficient_data"


def test_a_trial_goes_by_what_its_run_has_asked_for_whoever_concludes_it(settings: Config, capsys: Capture) -> None:
    registry, trial = registry_of(settings), start(settings)
    trials.write_counts(registry, trial, "one", counted(1000))
    trials.set_conditions(registry, trial.started, "ana", requests=2000, minutes=None)
    trials.set_conditions(registry, trial.started, "ana", requests=None, minutes=99.0)
    rules = rollout.read_rules(settings, registry, trial.started)
    assert (rules.requests, rules.minutes) == (2000, 99.0)
    assert run(settings, "canary", "--conclude") == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "insufficient_data" and registry.canary() == trial
    trials.set_conditions(registry, trial.started, "ana", requests=50, minutes=None)
    assert rollout.read_rules(settings, registry, trial.started) == replace(rollout.read_rules(settings), minutes=99.0)


def test_a_run_neither_replaces_nor_ends_a_trial_of_others(settings: Config) -> None:
    registry, trial = registry_of(settings), start(settings)
    put_version(settings, "v3")
    registry.decide("v3", "gate", "promoted", by="a test", why="passed")
    run: dict[str, Any] = {"by": "dev, run 1", "why": "asked for", "replace": False}
    for version, share in (("v3", trial.share), ("v2", 0.9)):
        with pytest.raises(RegistryError, match="trial of v2 .* is running"):
            rollout.start(registry, settings.events, version, share, **run)
    assert rollout.start(registry, settings.events, "v2", trial.share, **run) == trial
    for conditions in ({"minutes": 1.0}, {"requests": 5000}, {"minutes": None, "requests": None}):
        with pytest.raises(RegistryError, match="started by ana; an admin can end it"):
            trials.set_conditions(registry, trial.started, run["by"], **conditions)
    assert rollout.read_rules(settings, registry, trial.started) == rollout.read_rules(settings)
    assert registry.canary() == trial


def test_a_run_goes_on_with_the_trial_of_the_gate_as_it_is(settings: Config) -> None:
    registry = registry_of(settings)
    trial = rollout.start(registry, settings.events, "v2", 0.5, by="gate", why="passed")
    trials.set_conditions(registry, trial.started, "dev, run 1", minutes=None, requests=None)
    with pytest.raises(RegistryError, match="started by gate; leave minutes out"):
        trials.set_conditions(registry, trial.started, "dev, run 1", minutes=1.0, requests=None)


def test_after_an_error_the_trial_stays_and_each_error_is_an_event(settings: Config) -> None:
    registry, trial = registry_of(settings), start(settings, 0.9)  # callers are split otherwise
    trials.write_counts(registry, trial, "one", counted(1000))
    assert rollout.is_due(registry, trial.started, RULES)
    for number in (1, 2):
        decision = rollout.conclude(registry, settings.events, trial.started, LATE, by="run 1")
        assert decision["outcome"] == "error" and registry.canary() == trial
        decided = events(settings, "llmops.canary")
        assert [e["llmops.canary.outcome"] for e in decided] == ["error"] * number
        assert registry.decisions("v2")[-1]["numbers"]["trial"] == trial.started
        assert decided[-1]["event.reason"] == decision["why"] and checks.check_trial_error(
            CheckInputs(settings, None), datetime.now(UTC)
        )


@pytest.mark.parametrize(("up", "promote", "better"), [(9, True, True), (9, False, True), (5, True, False)])
def test_an_ab_test_promotes_only_what_users_like_more(settings: Config, up: int, promote: bool, better: bool) -> None:
    registry, trial = registry_of(settings), start(settings, 0.5, "ab_test")
    trials.write_counts(registry, trial, "one", counted(600, up=up))
    decision = rollout.conclude(registry, settings.events, trial.started, RULES, by="ana", promote=promote)
    assert decision["outcome"] == "no_regression" and ("users like it better" in decision["why"]) == better
    assert registry.canary() is None and registry.decisions("v2")[-1]["kind"] == "ab_test"
    assert (registry.aliases()["champion"] == "v2") == decision["promoted"] == (better and promote)


def test_what_cannot_be_done_is_said_in_one_line_and_is_no_event(settings: Config, capsys: Capture) -> None:
    for words in (
        "promote", "promote v2 --stop", "rollback v1", "list v1", "canary v2 --share 1", "canary --share 0.2",
        "canary v2 --stop", "ab --conclude", "ab v2 --conclude", "canary --conclude --promote", "rollback --override x",
    ):  # fmt: skip
        assert run(settings, *words.split()) == 1, words
        error = capsys.readouterr().err
        assert error.startswith("llmops: ") and len(error.splitlines()) == 1, words
    assert events(settings) == []


def test_a_trial_that_ends_while_it_is_concluded_is_over(settings: Config, monkeypatch: Patch) -> None:
    registry, trial = registry_of(settings), start(settings)

    def meanwhile(*sides: Any, **rules: Any) -> TrialVerdict:
        rollout.stop(registry, settings.events, by="ana", why="enough")
        return TrialVerdict("no_regression", "nothing was found", {})

    monkeypatch.setattr(rollout, "judge", meanwhile)
    decision = rollout.conclude(registry, settings.events, trial.started, RULES, by="run 1")
    assert (decision["outcome"], decision["by"], decision["why"]) == ("over", "ana", "enough")
    assert registry.aliases()["champion"] == "v1" and events(settings, "llmops.canary") == []


@pytest.mark.parametrize("kind", ["canary", "ab_test"])
def test_a_version_that_the_gate_takes_back_is_not_promoted_by_its_trial(settings: Config, kind: Any) -> None:
    registry, trial = registry_of(settings), start(settings, 0.5, kind)
    trials.write_counts(registry, trial, "one", counted(1000, up=9))
    registry.decide("v2", "gate", "rejected", by="gate", why="new items tell it apart")
    decision = rollout.conclude(registry, settings.events, trial.started, RULES, by="run 1")
    assert decision["outcome"] == "no_regression" and "new items tell it apart" in decision["why"]
    assert not decision["promoted"]
    assert registry.aliases() == {"candidate": "v2", "champion": "v1"}
    last = registry.decisions("v2")[-1]
    assert (last["kind"], last["outcome"], last["why"]) == (kind, "no_regression", decision["why"])
    again = rollout.conclude(registry, settings.events, trial.started, RULES, by="run 1")
    assert again["outcome"] == "over" and len(events(settings, "llmops.canary")) == 1


@pytest.mark.parametrize("words", [("promote", "v2"), ("canary", "v2"), ("rollback",)])
def test_what_is_done_is_told_without_its_event(settings: Config, monkeypatch: Patch, words: tuple[str, ...]) -> None:
    """A rollback that is told as failed is asked for again, and the bad champion is back."""
    registry = registry_of(settings)
    for version in ("v2", "v1"):
        registry.promote(version)
    monkeypatch.setattr(rollout, "emit", Mock(side_effect=OSError(28, "No space left on device")))
    assert run(settings, *words) == 0
    aliases = registry.aliases()
    assert aliases["canary" if words[0] == "canary" else "champion"] == "v2"


@pytest.mark.parametrize("ending", ["pull", "promote", "stop"])
def test_a_trial_ends_with_its_decision_and_one_event(settings: Config, monkeypatch: Patch, ending: str) -> None:
    """The process that decides dies before the decision is in the database, then before its event is stored."""
    registry, trial = registry_of(settings), start(settings, 0.5)
    trials.write_counts(registry, trial, "one", counted(600, 0 if ending == "promote" else 400))

    def end() -> None:
        if ending == "pull":
            rollout.pull(registry, settings.events, trial, "worse", {"p": 0.001})
        else:
            rollout.conclude(registry, settings.events, trial.started, RULES, by="run 1")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry, "decide", Mock(side_effect=KeyboardInterrupt))
        end()
    assert registry.canary() == trial and registry.aliases()["champion"] == "v1"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rollout, "emit", Mock(side_effect=KeyboardInterrupt))
        end()
    assert registry.canary() is None
    for _ in range(2):  # as a task that is tried again
        assert rollout.conclude(registry, settings.events, trial.started, RULES, by="run 1")["outcome"] == "over"
    (event,) = events(settings, "llmops.canary")
    (decision,) = [d for d in registry.decisions("v2") if d["kind"] == "canary"]
    told = {name: event[f"llmops.canary.{name}"] for name in ("outcome", "numbers", "share", "started")}
    known = {name: decision[name] for name in ("outcome", "numbers")}
    assert told == {**known, "share": 0.5, "started": trial.started} and event["event.reason"] == decision["why"]
