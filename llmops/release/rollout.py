"""Which version answers: promote, roll back, try a canary, test two versions. The API, the command line, the DAGs and
the app's own watching all come here, so that each change is in the registry's history and an event, whoever made it.

    llmops models canary v3 --share 0.1

A trial, a canary's or an A/B test, ends in one of four ways: the app pulls the version as soon as it is worse (`pull`),
somebody stops it or promotes something (`stop`, `promote`), or `conclude` decides after a number of requests or a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from llmops.config import Config
from llmops.errors import RegistryError
from llmops.monitoring.datasets import ADMIN, CANARY
from llmops.monitoring.events import emit
from llmops.registry.aliases import Canary
from llmops.registry.decisions import NotPassed
from llmops.registry.registry import Registry
from llmops.registry.version import Version
from llmops.release import ab_test, trials
from llmops.release.canary import could_be_sure, decide

log = logging.getLogger(__name__)

MARGIN, OBJECTIVE_S = 0.02, math.inf  #: where a configuration says nothing else

Kind = Literal["canary", "ab_test"]


def promote(
    registry: Registry,
    events: Path,
    version: str,
    *,
    by: str,
    why: str,
    override: str = "",
    who: Mapping[str, Any] | None = None,
) -> Version:
    """Make a version the champion; a canary's trial is over. Promoting the champion changes nothing.

    Args:
        registry: where.
        events: the events folder.
        version: its name, or an alias.
        by, why: for the history and the event.
        override: why one that the gate did not pass is promoted all the same.
        who: more fields of the event.

    Raises:
        RegistryError: if it cannot be, or the gate did not pass it and there is no override.
    """
    before = registry.aliases().get("champion")
    chosen = registry.promote(version, by=by, why=why, override=override)
    if chosen.name != before:
        needed = "" if chosen.status == "promoted" else override
        _tell(registry, events, "promote", by, why, chosen.name, who, needed)
    return chosen


def rollback(registry: Registry, events: Path, *, by: str, why: str, who: Mapping[str, Any] | None = None) -> Version:
    """Make the previous champion the champion again; a canary's trial is over."""
    chosen = registry.rollback(by=by, why=why)
    _tell(registry, events, "rollback", by, why, chosen.name, who)
    return chosen


def start(
    registry: Registry,
    events: Path,
    version: str,
    share: float,
    *,
    by: str,
    why: str,
    override: str = "",
    kind: Kind = "canary",
    who: Mapping[str, Any] | None = None,
) -> Canary:
    """Let a version answer a share of the callers, as a canary or in an A/B test; asking again for what is there
    changes nothing, but that a reason it needs is written down."""
    before = registry.canary(), registry.trial_override()
    canary = registry.start_canary(version, share, by=by, why=why, override=override, kind=kind)
    needed = registry.trial_override()
    if (canary, needed) != before:
        more = {"llmops.canary.share": share, **(who or {})}
        _tell(registry, events, f"{kind}_start", by, why, canary.version, more, needed)
    return canary


def stop(
    registry: Registry, events: Path, *, by: str, why: str, kind: Kind = "canary", who: Mapping[str, Any] | None = None
) -> Canary | None:
    """End the trial of this kind; the champion answers everybody. None if there was no trial.

    Raises:
        RegistryError: if one of the other kind goes on.
    """
    if registry.canary() is None:
        return None
    canary = registry.stop_canary(by=by, why=why, trial=going_on(registry, kind).started)
    if canary:
        _tell(registry, events, f"{kind}_stop", by, why, canary.version, who)
    return canary


def pull(registry: Registry, events: Path, trial: Canary, why: str, numbers: Mapping[str, Any]) -> bool:
    """Take back a version on trial that is worse; False if its trial was over already.

    Args:
        registry: where.
        events: the events folder.
        trial: the trial that found it.
        why: what is wrong with it.
        numbers: what was counted, and the look that found it.
    """
    outcome = "rolled back"
    ending: dict[str, Any] = {"trial": trial.started, "numbers": numbers, "outcome": outcome}
    with registry.changing() as connection:
        ending["connection"] = connection
        if not registry.stop_canary(by="serving", why=f"canary rolled back: {why}", **ending):
            return False
        decided: dict[str, Any] = {"by": "serving", "why": why, "numbers": numbers}
        registry.decide(trial.version, "canary", outcome, **decided, connection=connection)
    _announce(registry, events, trial, {**decided, "kind": "canary", "outcome": outcome})
    return True


def conclude(
    registry: Registry,
    events: Path,
    trial: str,
    *,
    by: str,
    margin: float = MARGIN,
    objective_s: float = OBJECTIVE_S,
    promote: bool = True,
) -> dict[str, Any]:
    """End a trial by what was counted: a canary is promoted if it is surely not worse, a version in an A/B test if
    users like it better and a canary would be. What the gate does not pass any more, and has no reason, is not: that
    is inconclusive.

    Args:
        registry: where.
        events: the events folder.
        trial: `started` of its trial.
        by: for the history.
        margin, objective_s: see `canary.decide`.
        promote: False: the version that has won an A/B test is named and the champion stays.

    Returns:
        `outcome` (promoted | worse | inconclusive, of an A/B test won | lost | mixed | inconclusive; over: the trial
        had ended before, pulled by the app or ended by somebody), `why`, and if there are any the decision's `numbers`.

    Raises:
        RegistryError: if its model is gone.
    """
    going = registry.canary()
    if going is None or going.started != trial:
        return _over(registry, events, trial)
    kind, sides = trials.kind_of(registry, trial), trials.counted(registry, trial)
    given: dict[str, Any] = {"share": going.share, "margin": margin, "objective_s": objective_s}
    found = decide(sides.canary, sides.champion, before=sides.before, **given)
    outcome, why, numbers = str(found.outcome), found.why, dict(found.numbers)
    switch, words = outcome == "promoted", "canary"
    if kind == trials.AB_TEST:
        standing = trials.look_at_ab_test(registry, going, sides, trials.next_ab_look(registry, trial))
        outcome, why = ab_test.decide(standing, found)
        numbers |= {"standing": ab_test.document(standing)}
        switch, words = outcome == "won" and promote, "A/B test"
    decision: Literal["canary", "ab_test"] = "ab_test" if kind == trials.AB_TEST else "canary"

    def end() -> bool:
        told: dict[str, Any] = {"by": by, "numbers": numbers}
        with registry.changing() as connection:
            ending = {**told, "trial": trial, "connection": connection}
            if switch:
                registry.promote(going.version, why=f"{words} promoted: {why}", **ending)
            elif not registry.stop_canary(why=f"{words} ended: {why}", outcome=outcome, **ending):
                return False
            registry.decide(going.version, decision, outcome, why=why, connection=connection, **told)
        return True

    try:
        try:
            ended = end()
        except NotPassed as error:
            switch, outcome, why = False, "inconclusive", f"{why}; but {error}"
            ended = end()
    except RegistryError:
        if registry.canary() == going:  # it is not that somebody ended the trial at this very moment
            raise
        ended = False
    if not ended:
        return _over(registry, events, trial)
    _announce(registry, events, going, {"kind": decision, "outcome": outcome, "why": why, "numbers": numbers})
    return {"outcome": outcome, "why": why, "numbers": numbers}


def rules(config: Config) -> dict[str, Any]:
    """What `conclude` goes by, as configured: whoever ends a trial, all go by the same."""
    return {"margin": config.release.canary_margin, "objective_s": config.release.canary_slow_ms / 1000}


def going_on(registry: Registry, kind: Kind) -> Canary:
    """The trial of this kind that goes on.

    Raises:
        RegistryError: if there is none.
    """
    going = registry.canary()
    if going is None or trials.kind_of(registry, going.started) != kind:
        name, command = ("A/B test", "ab") if kind == trials.AB_TEST else ("canary", "canary")
        raise RegistryError(f"No {name} goes on; begin one with `llmops models {command} VERSION`.")
    return going


def due(registry: Registry, trial: str, requests: int, minutes: float, margin: float = MARGIN) -> bool:
    """Whether a trial can be concluded: enough requests of the version on trial, or time is up, or it is over already;
    an A/B test also if somebody has won, the challenger not before there are requests enough to be sure of `margin`."""
    going = registry.canary()
    if going is None or going.started != trial:
        return True
    if datetime.now(UTC) >= datetime.fromisoformat(trial) + timedelta(minutes=minutes):
        return True
    sides, winner = trials.counted(registry, trial), ab_test.winner(trials.standing(registry, trial))
    if winner and (winner != "challenger" or could_be_sure(sides.canary, sides.champion, margin)):
        return True
    return sides.canary.requests >= requests


def state(registry: Registry) -> dict[str, Any] | None:
    """The trial that goes on and what both sides have done in it, over all replicas; None without one."""
    going = registry.canary()
    if going is None:
        return None
    sides, kind = trials.counted(registry, going.started), trials.kind_of(registry, going.started)
    told = {**asdict(going), "kind": kind, "canary": sides.canary.summary(), "champion": sides.champion.summary()}
    if kind != trials.AB_TEST:
        return told
    standing = trials.standing(registry, going.started)
    return {**told, "standing": ab_test.document(standing), "found": ab_test.told(standing)}


def _over(registry: Registry, events: Path, trial: str) -> dict[str, Any]:
    """What `conclude` says of a trial that has ended already; whoever decided it may have died before its event."""
    end, known = registry.ended(trial), trials.find(registry, trial)
    if known:
        for d in registry.decisions(known.version):
            if d["kind"] in ("canary", trials.AB_TEST) and d["numbers"] == end.get("numbers"):
                _announce(registry, events, known, d)
    return {"outcome": "over", **{name: end[name] for name in ("by", "why", "numbers") if name in end}}


def _tell(
    registry: Registry,
    events: Path,
    action: str,
    by: str,
    why: str,
    version: str,
    who: Mapping[str, Any] | None,
    override: str = "",
) -> None:
    with _told():
        fields = {
            "event.action": action,
            "event.outcome": "success",
            "event.reason": why,
            "user.name": by,
            "llmops.model.version": version,
            "llmops.aliases": registry.aliases(),
            **({"llmops.override": override} if override else {}),
        }
        emit(events, ADMIN, {**fields, **(who or {})})


def _announce(registry: Registry, events: Path, trial: Canary, decision: Mapping[str, Any]) -> None:
    """Make an event of the decision that ended a trial."""
    with _told():
        emit(events, CANARY, trials.event_of(registry, trial, decision))
    log.info("%s %s %s: %s", decision["kind"], trial.version, decision["outcome"], decision["why"])


@contextmanager
def _told() -> Iterator[None]:
    """Nothing that is done is told as failed because its event cannot be stored: who does it again may undo it."""
    try:
        yield
    except Exception:
        log.exception("An event is lost; what it tells of is done")
