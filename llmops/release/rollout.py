"""Which version answers: promote, roll back, and try a canary. The API, the command line, the DAG and the app's own
watching all come here, so that each change is in the registry's history and an event, whoever made it.

    llmops models canary v3 --share 0.1

A canary's trial ends in one of four ways: the app pulls it as soon as it is worse (`pull`), somebody stops it or
promotes something (`stop`, `promote`), or `conclude` decides after a number of requests or a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from llmops.artifacts import write_whole
from llmops.errors import RegistryError
from llmops.monitoring.events import ADMIN, CANARY, emit
from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.registry.version import Version
from llmops.release.canary import Figures, compare

log = logging.getLogger(__name__)

FINAL = 0.05  #: bound of the one look when a trial is concluded: not to promote is the cheaper mistake
LEAST = 30  #: requests of each side without which nothing is concluded

Outcome = Literal["promoted", "worse", "inconclusive", "over"]


def promote(
    registry: Registry, events: Path, version: str, *, by: str, why: str, who: Mapping[str, Any] | None = None
) -> Version:
    """Make a version the champion; a canary's trial is over.

    Args:
        registry: where.
        events: the events folder.
        version: its name, or an alias.
        by, why: for the history and the event.
        who: more fields of the event.
    """
    chosen = registry.promote(version, by=by, why=why)
    _tell(registry, events, "promote", by, why, chosen.name, who)
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
    who: Mapping[str, Any] | None = None,
) -> Canary:
    """Let a version answer a share of the callers; asking again for what is there changes nothing."""
    before = registry.canary()
    canary = registry.start_canary(version, share, by=by, why=why)
    if canary != before:
        _tell(registry, events, "canary_start", by, why, canary.version, {"llmops.canary.share": share, **(who or {})})
    return canary


def stop(registry: Registry, events: Path, *, by: str, why: str, who: Mapping[str, Any] | None = None) -> Canary | None:
    """End the canary's trial; the champion answers everybody. None if there was no canary."""
    canary = registry.stop_canary(by=by, why=why)
    if canary:
        _tell(registry, events, "canary_stop", by, why, canary.version, who)
    return canary


def pull(registry: Registry, events: Path, trial: Canary, why: str, numbers: Mapping[str, Any]) -> bool:
    """Take back a canary that is worse; False if its trial was over already.

    Args:
        registry: where.
        events: the events folder.
        trial: the trial that found it.
        why: what is wrong with it.
        numbers: what was counted, and the look that found it.
    """
    if not registry.stop_canary(by="serving", why=f"canary rolled back: {why}", trial=trial.started, numbers=numbers):
        return False
    _decided(events, trial, "rolled back", why, numbers)
    return True


def conclude(registry: Registry, events: Path, trial: str, *, by: str) -> dict[str, Any]:
    """Decide on a canary: promote it unless it is worse.

    Args:
        registry: where.
        events: the events folder.
        trial: `started` of its trial.
        by: for the history.

    Returns:
        `outcome` (promoted | worse | inconclusive; over: the trial had ended before, pulled by the app or ended by
        somebody), `why`, and if there are any the decision's `numbers`.

    Raises:
        RegistryError: if its model is gone.
    """
    going = registry.canary()
    if going is None or going.started != trial:
        return _over(registry, trial)
    canary, champion = counted(registry, going)
    verdict = compare(canary, champion, FINAL)
    outcome: Outcome = "promoted"
    if verdict.worse:
        outcome, why = "worse", verdict.text()
    elif min(canary.requests, champion.requests) < LEAST:
        outcome = "inconclusive"
        counts = f"{canary.requests} requests, and {champion.requests} of the champion meanwhile"
        why = f"{counts}: at least {LEAST} of each are needed"
    else:
        why = f"not worse than the champion, after {canary.requests} requests"
    numbers = verdict.numbers()
    try:
        if outcome == "promoted":
            registry.promote(going.version, by=by, why=f"canary promoted: {why}", trial=trial, numbers=numbers)
        elif not registry.stop_canary(by=by, why=f"canary stopped: {why}", trial=trial, numbers=numbers):
            return _over(registry, trial)
    except RegistryError:
        if registry.canary() == going:  # it is not that somebody ended the trial at this very moment
            raise
        return _over(registry, trial)
    _decided(events, going, outcome, why, numbers)
    return {"outcome": outcome, "why": why, "numbers": numbers}


def due(registry: Registry, trial: str, requests: int, minutes: float) -> bool:
    """Whether a trial can be concluded: enough requests, or time is up, or it is over already."""
    going = registry.canary()
    if going is None or going.started != trial:
        return True
    if datetime.now(UTC) >= datetime.fromisoformat(trial) + timedelta(minutes=minutes):
        return True
    return counted(registry, going)[0].requests >= requests


def counted(registry: Registry, trial: Canary) -> tuple[Figures, Figures]:
    """What all replicas together have counted in a trial: canary and champion."""
    canary, champion = Figures(), Figures()
    for path in (registry.folder / "canary").glob("*.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # another trial has begun since it was listed
            continue
        if document["trial"] == trial.started:
            canary, champion = canary + Figures.of(document["canary"]), champion + Figures.of(document["champion"])
    return canary, champion


def count(registry: Registry, trial: Canary, replica: str, canary: Figures, champion: Figures) -> None:
    """Write down what one replica has counted so far, for all to see."""
    folder = registry.folder / "canary"
    folder.mkdir(exist_ok=True)
    document = {"trial": trial.started, "canary": canary.document(), "champion": champion.document()}
    write_whole(folder / f"{replica}.json", json.dumps(document).encode())


def state(registry: Registry) -> dict[str, Any] | None:
    """The canary and what both sides have done in its trial, over all replicas; None without a canary."""
    going = registry.canary()
    if going is None:
        return None
    canary, champion = counted(registry, going)
    return {**asdict(going), "canary": canary.summary(), "champion": champion.summary()}


def _over(registry: Registry, trial: str) -> dict[str, Any]:
    """What `conclude` says of a trial that has ended already."""
    end = registry.ended(trial)
    return {"outcome": "over", **{name: end[name] for name in ("by", "why", "numbers") if name in end}}


def _tell(
    registry: Registry, events: Path, action: str, by: str, why: str, version: str, who: Mapping[str, Any] | None
) -> None:
    fields = {
        "event.action": action,
        "event.outcome": "success",
        "event.reason": why,
        "user.name": by,
        "llmops.model.version": version,
        "llmops.aliases": registry.aliases(),
    }
    emit(events, ADMIN, {**fields, **(who or {})})


def _decided(events: Path, trial: Canary, outcome: str, why: str, numbers: Mapping[str, Any]) -> None:
    fields = {
        "event.action": "decide",
        "event.outcome": "success" if outcome == "promoted" else "failure",
        "event.reason": why,
        "llmops.model.version": trial.version,
        "llmops.canary.outcome": outcome,
        "llmops.canary.share": trial.share,
        "llmops.canary.started": trial.started,
        "llmops.canary.numbers": numbers,
    }
    emit(events, CANARY, fields)
    log.info("Canary %s %s: %s", trial.version, outcome, why)
