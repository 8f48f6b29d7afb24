"""Changes of the version that answers: promote, roll back, try a canary, test two versions.

The API, the command line, the DAGs and the app's watcher all come here, so that each change is an event and in the
registry's history.

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
from llmops.release.trials import AB_TEST, Kind
from llmops.release.verdict import Rules, Verdict, enough, judge

log = logging.getLogger(__name__)

Fields = Mapping[str, Any] | None  #: more fields of an event


def promote(
    registry: Registry, events: Path, version: str, *, by: str, why: str, override: str = "", who: Fields = None
) -> Version:
    """Make a version the champion, and end the trial of a canary. Promoting the champion changes nothing.

    `version` is a name or an alias, `override` the reason for a version that the gate did not pass, and `who` has more
    fields of the event.

    Raises:
        RegistryError: if the version cannot be promoted, or the gate did not pass it and there is no override.
    """
    before = registry.aliases().get("champion")
    chosen = registry.promote(version, by=by, why=why, override=override)
    if chosen.name != before:
        reason = {"llmops.override": override} if override and chosen.status != "promoted" else {}
        _tell(registry, events, "promote", chosen.name, by, why, {**(who or {}), **reason})
    return chosen


def rollback(registry: Registry, events: Path, *, by: str, why: str, who: Fields = None) -> Version:
    """Make the previous champion the champion again; a canary's trial is over."""
    chosen = registry.rollback(by=by, why=why)
    _tell(registry, events, "rollback", chosen.name, by, why, who)
    return chosen


def start(
    registry: Registry, events: Path, version: str, share: float, *, by: str, why: str, override: str = "",
    kind: Kind = "canary", who: Fields = None
) -> Canary:  # fmt: skip
    """Let a version answer a share of the callers, as a canary or in an A/B test.

    A second call for the running trial only stores the override that the trial needs.
    """
    before = registry.canary(), registry.trial_override()
    canary = registry.start_canary(version, share, by=by, why=why, override=override, kind=kind)
    needed = registry.trial_override()
    if (canary, needed) != before:
        more = {"llmops.canary.share": share, **(who or {}), **({"llmops.override": needed} if needed else {})}
        _tell(registry, events, f"{kind}_start", canary.version, by, why, more)
    return canary


def stop(
    registry: Registry, events: Path, *, by: str, why: str, kind: Kind = "canary", who: Fields = None
) -> Canary | None:
    """End the trial of this kind; the champion answers everybody. None if there was no trial.

    Raises:
        RegistryError: if one of the other kind goes on.
    """
    if registry.canary() is None:
        return None
    canary = registry.stop_canary(by=by, why=why, trial=going_on(registry, kind).started)
    if canary:
        _tell(registry, events, f"{kind}_stop", canary.version, by, why, who)
    return canary


def pull(registry: Registry, events: Path, trial: Canary, why: str, numbers: Mapping[str, Any]) -> bool:
    """Take back a version on trial at a regression; False if its trial was over already."""
    return _end(registry, events, trial, Verdict("regression", why, numbers), "serving")


def conclude(
    registry: Registry, events: Path, trial: str, rules: Rules, *, by: str, promote: bool = True
) -> dict[str, Any]:
    """Act on the verdict of a trial, which is named by its start.

    A regression is pulled. A version without one is promoted, in an A/B test only if users like it better, and if
    `promote` allows it. One of which too little was seen stays until the deadline and is pulled then. After an error it
    stays, and an alert is raised. One that the gate does not pass any more is not promoted, and its trial ends.

    Returns:
        `outcome` (the verdict's word; over: the trial had ended before), `promoted`, `why`, and perhaps `numbers`.

    Raises:
        RegistryError: if its model is gone.
        TransientError: if the database cannot be reached.
    """
    going, kind = registry.canary(), trials.kind_of(registry, trial)
    if going is None or going.started != trial:
        return _over(registry, events, trial)
    sides = trials.counted(registry, trial)
    found = judge(sides.canary, sides.champion, going.share, rules, ratings=kind == AB_TEST, end=True)
    result = {"outcome": found.word, "promoted": False, "why": found.why, "numbers": dict(found.numbers)}
    if found.word == "error":
        registry.decide(going.version, kind, "error", by=by, why=found.why, numbers={**found.numbers, "trial": trial})
        _announce(registry, events, going, {**result, "kind": kind})
    if found.word == "error" or (found.word == "insufficient_data" and not rules.late(trial)):
        return result
    switch = found.word == "no_regression" and promote and (kind != AB_TEST or found.better)
    try:
        try:
            ended = _end(registry, events, going, found, by, switch)
        except NotPassed as error:
            switch, found = False, Verdict(found.word, f"{found.why}; but {error}", found.numbers)
            ended = _end(registry, events, going, found, by)
    except RegistryError:
        if registry.canary() == going:  # it is not that somebody ended the trial at this very moment
            raise
        ended = False
    return result | {"promoted": switch, "why": found.why} if ended else _over(registry, events, trial)


def due(registry: Registry, trial: str, rules: Rules) -> bool:
    """Return whether a trial can be concluded: it has seen enough, its deadline has come, or it is over already."""
    going = registry.canary()
    if going is None or going.started != trial or rules.late(trial):
        return True
    sides = trials.counted(registry, trial)
    return enough(sides.canary, sides.champion, rules)


def rules_of(config: Config, registry: Registry | None = None, trial: str = "") -> Rules:
    """Return the conditions of a trial: the configured ones, with the deadline and requests that its run asked for.

    A run may ask for more requests, not for fewer: whoever may start a run does not decide how few are enough.
    """
    known, told = trials.find(registry, trial) if registry else None, config.release
    asked = known.settings if known else {}
    requests = max(asked.get("requests", 0), told.canary_requests)
    return Rules(requests, told.canary_callers, asked.get("minutes", told.canary_minutes), told.canary_slow_ms / 1000)


def going_on(registry: Registry, kind: Kind) -> Canary:
    """Return the trial of this kind that goes on.

    Raises:
        RegistryError: if there is none.
    """
    going = registry.canary()
    if going is None or trials.kind_of(registry, going.started) != kind:
        name, command = ("A/B test", "ab") if kind == AB_TEST else ("canary", "canary")
        raise RegistryError(f"No {name} goes on; begin one with `llmops models {command} VERSION`.")
    return going


def state(registry: Registry) -> dict[str, Any] | None:
    """Return the trial that goes on with the counts of both sides, over all replicas; None without one."""
    going = registry.canary()
    if going is None:
        return None
    kind = trials.kind_of(registry, going.started)
    sides = trials.counted(registry, going.started)
    return {**asdict(going), "kind": kind, "canary": sides.canary.summary(), "champion": sides.champion.summary()}


def _end(registry: Registry, events: Path, trial: Canary, found: Verdict, by: str, switch: bool = False) -> bool:
    """End a trial together with its decision, promoting the version or not; False if it was over already."""
    kind = trials.kind_of(registry, trial.started)
    told: dict[str, Any] = {"by": by, "numbers": found.numbers}
    words = "A/B test" if kind == AB_TEST else "canary"
    with registry.changing() as connection:
        ending = {**told, "trial": trial.started, "connection": connection}
        if switch:
            registry.promote(trial.version, why=f"{words} promoted: {found.why}", **ending)
        elif not registry.stop_canary(why=f"{words} ended: {found.why}", outcome=found.word, **ending):
            return False
        registry.decide(trial.version, kind, found.word, why=found.why, connection=connection, **told)
    _announce(registry, events, trial, {**told, "kind": kind, "outcome": found.word, "why": found.why})
    return True


def _over(registry: Registry, events: Path, trial: str) -> dict[str, Any]:
    """Return how a trial ended, and announce it again: whoever ended it may have died before its event was stored."""
    end, known = registry.ended(trial), trials.find(registry, trial)
    if known:
        for d in registry.decisions(known.version):
            if d["kind"] == known.kind and d["outcome"] != "error" and d["numbers"] == end.get("numbers"):
                _announce(registry, events, Canary(known.version, known.share, trial), d)
    return {"outcome": "over", "promoted": False, **{n: end[n] for n in ("by", "why", "numbers") if n in end}}


def _tell(registry: Registry, events: Path, action: str, version: str, by: str, why: str, more: Fields) -> None:
    with _logged():
        fields: dict[str, Any] = {"event.action": action, "event.outcome": "success"}
        fields |= {
            "event.reason": why,
            "user.name": by,
            "llmops.model.version": version,
            "llmops.aliases": registry.aliases(),
            **(more or {}),
        }
        emit(events, ADMIN, fields)


def _announce(registry: Registry, events: Path, trial: Canary, decision: Mapping[str, Any]) -> None:
    """Write the event of a verdict. One that ends a trial is stored once, by its id; each error is an event."""
    ends = uuid.uuid5(uuid.NAMESPACE_URL, f"{CANARY}|{registry.name}|{trial.started}")
    with _logged():
        fields = {
            "event.action": "decide",
            "event.outcome": "success" if decision["outcome"] == "no_regression" else "failure",
            "event.reason": decision["why"],
            "llmops.model.version": trial.version,
            **{f"llmops.canary.{name}": decision[name] for name in ("kind", "outcome", "numbers")},
            "llmops.canary.share": trial.share,
            "llmops.canary.started": trial.started,
        }
        emit(events, CANARY, fields if decision["outcome"] == "error" else {**fields, "event.id": str(ends)})
    log.info("%s %s %s: %s", decision["kind"], trial.version, decision["outcome"], decision["why"])


@contextmanager
def _logged() -> Iterator[None]:
    """Log that an event cannot be stored. Its change is done, and whoever heard of a failure might undo it."""
    try:
        yield
    except Exception:
        log.exception("An event is lost; the change that it tells of is done")
