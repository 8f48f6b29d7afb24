"""Changes of the version that answers: promote, roll back, try a canary, test two versions.

The API, the command line, the DAGs and the app's watcher all call this module, so that each change is an event and in
the registry's history.

    llmops models canary v3 --share 0.1

A trial, a canary's or an A/B test, ends in one of three ways: the app pulls the version at a regression (`pull`),
somebody stops it or promotes something (`stop`, `promote`), or `conclude` acts on a verdict (`llmops.release.verdict`).
"""

import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops.config import Config
from llmops.events.datasets import ADMIN, CANARY
from llmops.events.events import emit
from llmops.frame.errors import RegistryError
from llmops.release import trials
from llmops.release.registry.aliases import Canary
from llmops.release.registry.decisions import NotPassed
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from llmops.release.trials import AB_TEST, TrialKind
from llmops.release.verdict import Rules, TrialVerdict, has_enough, judge

log = logging.getLogger(__name__)

Fields = Mapping[str, Any] | None  #: more fields of an event


def promote(
    registry: Registry, events: Path, version: str, *, by: str, why: str, override: str = "", fields: Fields = None
) -> Version:
    """Make a version the champion, and end the trial of a canary. Promoting the champion changes nothing.

    `version` is a name or an alias, `override` the reason for a version that the gate did not pass, and `fields` are
    added to the event.

    Raises:
        RegistryError: if the version cannot be promoted, or the gate did not pass it and there is no override.
    """
    before = registry.aliases().get("champion")
    chosen = registry.promote(version, by=by, why=why, override=override)
    if chosen.name != before:
        reason = {"llmops.override": override} if override and chosen.status != "promoted" else {}
        _emit_change(registry, events, "promote", chosen.name, by, why, {**(fields or {}), **reason})
    return chosen


def rollback(registry: Registry, events: Path, *, by: str, why: str, fields: Fields = None) -> Version:
    """Make the previous champion the champion again; a canary's trial is over."""
    chosen = registry.rollback(by=by, why=why)
    _emit_change(registry, events, "rollback", chosen.name, by, why, fields)
    return chosen


def start(
    registry: Registry, events: Path, version: str, share: float, *, by: str, why: str, override: str = "",
    kind: TrialKind = "canary", fields: Fields = None, replace: bool = True
) -> Canary:  # fmt: skip
    """Let a version answer a share of the callers, as a canary or in an A/B test.

    Without `replace`, a running trial of another version or share is an error (`RegistryError`).
    A second call for the running trial only stores the override that the trial needs.
    """
    before = registry.canary(), registry.trial_override()
    canary = registry.start_canary(version, share, by=by, why=why, override=override, kind=kind, replace=replace)
    needed = registry.trial_override()
    if (canary, needed) != before:
        reason = {"llmops.override": needed} if needed else {}
        fields = {"llmops.canary.share": share, **(fields or {}), **reason}
        _emit_change(registry, events, f"{kind}_start", canary.version, by, why, fields)
    return canary


def stop(
    registry: Registry, events: Path, *, by: str, why: str, kind: TrialKind = "canary", fields: Fields = None
) -> Canary | None:
    """End the trial of this kind; the champion then answers everybody. Return None if there was no trial.

    Raises:
        RegistryError: if a trial of the other kind is running.
    """
    if registry.canary() is None:
        return None
    canary = registry.stop_canary(by=by, why=why, trial=get_running(registry, kind).started)
    if canary:
        _emit_change(registry, events, f"{kind}_stop", canary.version, by, why, fields)
    return canary


def pull(registry: Registry, events: Path, trial: Canary, why: str, numbers: Mapping[str, Any]) -> bool:
    """End the trial of a version because of a regression. Return False if it had ended already."""
    return _end(registry, events, trial, TrialVerdict("regression", why, numbers), "serving")


def conclude(
    registry: Registry, events: Path, trial: str, rules: Rules, *, by: str, promote: bool = True
) -> dict[str, Any]:
    """Act on the verdict of the trial with this start.

    A version with a regression is pulled. Without one it is promoted if `promote` allows it, in an A/B test only if
    users like it better. With too little data it stays until the deadline and is pulled then. After an error it stays,
    and an alert is raised. A version that the gate no longer passes is not promoted, and its trial ends.

    Returns:
        `outcome` (of the verdict; over: the trial had ended before), `promoted`, `why`, and perhaps `numbers`.

    Raises:
        RegistryError: if its model is gone.
        TransientError: if the database cannot be reached.
    """
    running, kind = registry.canary(), trials.read_kind(registry, trial)
    if running is None or running.started != trial:
        return _report_ended(registry, events, trial)
    counts = trials.read_counts(registry, trial)
    verdict = judge(counts.canary, counts.champion, running.share, rules, ratings=kind == AB_TEST, end=True)
    result = {"outcome": verdict.outcome, "promoted": False, "why": verdict.why, "numbers": dict(verdict.numbers)}
    if verdict.outcome == "error":
        numbers = {**verdict.numbers, "trial": trial}
        registry.decide(running.version, kind, "error", by=by, why=verdict.why, numbers=numbers)
        _emit_decision(registry, events, running, {**result, "kind": kind})
    if verdict.outcome == "error" or (verdict.outcome == "insufficient_data" and not rules.is_past_deadline(trial)):
        return result
    promoted = verdict.outcome == "no_regression" and promote and (kind != AB_TEST or verdict.better)
    try:
        try:
            ended = _end(registry, events, running, verdict, by, promoted)
        except NotPassed as error:
            promoted, verdict = False, TrialVerdict(verdict.outcome, f"{verdict.why}; but {error}", verdict.numbers)
            ended = _end(registry, events, running, verdict, by)
    except RegistryError:
        if registry.canary() == running:  # the error is not that somebody ended the trial at this moment
            raise
        ended = False
    return result | {"promoted": promoted, "why": verdict.why} if ended else _report_ended(registry, events, trial)


def is_due(registry: Registry, trial: str, rules: Rules) -> bool:
    """Return True if a trial can be concluded: it has enough data, its deadline has come, or it has ended already."""
    running = registry.canary()
    if running is None or running.started != trial or rules.is_past_deadline(trial):
        return True
    counts = trials.read_counts(registry, trial)
    return has_enough(counts.canary, counts.champion, rules)


def read_rules(config: Config, registry: Registry | None = None, trial: str = "") -> Rules:
    """Return the conditions of a trial: the configured ones, with the deadline and requests of its run's parameters.

    A run may ask for more requests than configured, but not for fewer, because users may start runs.
    """
    row, release = trials.find_trial(registry, trial) if registry else None, config.release
    settings = row.settings if row else {}
    requests, minutes = settings.get("requests", 0), settings.get("minutes", release.canary_minutes)
    requests = max(requests, release.canary_requests)
    return Rules(requests, release.canary_callers, minutes, release.canary_slow_ms / 1000)


def get_running(registry: Registry, kind: TrialKind) -> Canary:
    """Return the running trial of this kind.

    Raises:
        RegistryError: if there is none.
    """
    running = registry.canary()
    if running is None or trials.read_kind(registry, running.started) != kind:
        name, command = ("A/B test", "ab") if kind == AB_TEST else ("canary", "canary")
        raise RegistryError(f"No {name} is running; start one with `llmops models {command} VERSION`.")
    return running


def describe_trial(registry: Registry) -> dict[str, Any] | None:
    """Return the running trial with the counts of both sides, over all replicas; None if there is no trial."""
    running = registry.canary()
    if running is None:
        return None
    kind, counts = trials.read_kind(registry, running.started), trials.read_counts(registry, running.started)
    sides = {"canary": counts.canary.summarize(), "champion": counts.champion.summarize()}
    return {**asdict(running), "kind": kind, **sides}


def _end(
    registry: Registry, events: Path, trial: Canary, verdict: TrialVerdict, by: str, promote: bool = False
) -> bool:
    """End a trial and record its decision in one transaction. Return False if the trial had ended already."""
    kind = trials.read_kind(registry, trial.started)
    decision: dict[str, Any] = {"by": by, "numbers": verdict.numbers}
    name = "A/B test" if kind == AB_TEST else "canary"
    with registry.transaction() as connection:
        change = {**decision, "trial": trial.started, "connection": connection}
        if promote:
            registry.promote(trial.version, why=f"{name} promoted: {verdict.why}", **change)
        elif not registry.stop_canary(why=f"{name} ended: {verdict.why}", outcome=verdict.outcome, **change):
            return False
        registry.decide(trial.version, kind, verdict.outcome, why=verdict.why, connection=connection, **decision)
    _emit_decision(registry, events, trial, {**decision, "kind": kind, "outcome": verdict.outcome, "why": verdict.why})
    return True


def _report_ended(registry: Registry, events: Path, trial: str) -> dict[str, Any]:
    """Return how a trial ended. Emit its event again, because the process that ended it may have been killed first."""
    end, row = registry.find_end(trial), trials.find_trial(registry, trial)
    if row:
        for d in registry.decisions(row.version):
            if d["kind"] == row.kind and d["outcome"] != "error" and d["numbers"] == end.get("numbers"):
                _emit_decision(registry, events, Canary(row.version, row.share, trial), d)
    return {"outcome": "over", "promoted": False, **{n: end[n] for n in ("by", "why", "numbers") if n in end}}


def _emit_change(
    registry: Registry, events: Path, action: str, version: str, by: str, why: str, fields: Fields
) -> None:
    with _log_failures():
        event = {
            "event.action": action,
            "event.outcome": "success",
            "event.reason": why,
            "user.name": by,
            "llmops.model.version": version,
            "llmops.aliases": registry.aliases(),
            **(fields or {}),
        }
        emit(events, ADMIN, event)


def _emit_decision(registry: Registry, events: Path, trial: Canary, decision: Mapping[str, Any]) -> None:
    """Emit the event of a verdict. An event that ends a trial is stored once, by its id; each error is an event."""
    event_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{CANARY}|{registry.name}|{trial.started}")
    with _log_failures():
        fields = {
            "event.action": "decide",
            "event.outcome": "success" if decision["outcome"] == "no_regression" else "failure",
            "event.reason": decision["why"],
            "llmops.model.version": trial.version,
            **{f"llmops.canary.{name}": decision[name] for name in ("kind", "outcome", "numbers")},
            "llmops.canary.share": trial.share,
            "llmops.canary.started": trial.started,
        }
        emit(events, CANARY, fields if decision["outcome"] == "error" else {**fields, "event.id": str(event_id)})
    log.info("%s %s %s: %s", decision["kind"], trial.version, decision["outcome"], decision["why"])


@contextmanager
def _log_failures() -> Iterator[None]:
    """Log that an event cannot be stored. The change itself is done, so the caller must not see a failure."""
    try:
        yield
    except Exception:
        log.exception("An event is lost; the change that it reports is done")
