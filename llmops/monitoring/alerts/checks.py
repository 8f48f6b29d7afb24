"""Checks of all rules except those about requests."""

from __future__ import annotations

import shutil
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.events.datasets import DECAY, DRIFT, PIPELINE
from llmops.events.events import format_timestamp
from llmops.events.spool import Spool
from llmops.frame.doctor import find_existing_parent
from llmops.monitoring.alerts.breach import Breach, get_machine_id
from llmops.monitoring.alerts.request_checks import CheckInputs
from llmops.release.registry.registry import registry_of
from llmops.state import tables
from llmops.state.database import database_of

LOOKBACK = timedelta(days=3)  #: age of the events about drift and decay that are read; at least two drift windows


def check_drift(inputs: CheckInputs, now: datetime) -> list[Breach] | None:
    """Find drift in the last windows, one breach per version."""
    if not inputs.reader:
        return None
    config = inputs.config
    last: dict[tuple[str, ...], dict[str, Any]] = {}
    look = max(LOOKBACK, 2 * timedelta(hours=config.monitoring.drift_hours))
    for event in inputs.reader.find(DRIFT, format_timestamp(now - look), format_timestamp(now)):
        comparison = tuple(str(event.get(f"llmops.drift.{name}", "")) for name in ("feature", "side", "test"))
        last[str(event.get("llmops.model.version", "")), *comparison] = event
    drifted: dict[str, set[str]] = defaultdict(set)
    for (version, feature, side, _), event in last.items():
        in_a_row = event.get("llmops.drift.windows") or 0
        if event.get("llmops.drift.drifted") and in_a_row >= config.alerts.drift_windows:
            drifted[version].add(f"{feature} of the {side}" if side else feature)
    return [
        Breach(
            "drift",
            f"Requests{f' to {version}' if version else ''} differ from the reference in "
            f"{config.alerts.drift_windows} windows in a row: {', '.join(sorted(features))}.",
            subject=version,
            value=len(features),
        )
        for version, features in sorted(drifted.items())
    ]


def check_decay(inputs: CheckInputs, now: datetime) -> list[Breach] | None:
    """Find figures of the last days whose slope is significantly bad."""
    if not inputs.reader:
        return None
    last: dict[tuple[str, str, str], dict[str, Any]] = {}
    for event in inputs.reader.find(DECAY, format_timestamp(now - LOOKBACK), format_timestamp(now)):
        names = ("llmops.model.version", "llmops.decay.metric", "llmops.decay.set")
        version, metric, items = (str(event.get(name, "")) for name in names)
        last[version, metric, items] = event
    breaches = []
    for (version, metric, items), event in sorted(last.items()):
        if not event.get("llmops.decay.decayed"):
            continue
        slope, low, high, value = (
            event[f"llmops.decay.{name}"] for name in ("slope", "slope_low", "slope_high", "value")
        )
        message = (
            f"{metric} of {version} on {items} items gets worse by {abs(slope):.4g} a day "
            f"(95 %: {low:.4g} to {high:.4g}); it is {value:.4g} now."
        )
        subject = " ".join(part for part in (version, metric, items) if part)
        breaches.append(Breach("decay", message, subject=subject, value=slope, bound=0.0))
    return breaches


def check_stage_failed(inputs: CheckInputs, now: datetime) -> list[Breach] | None:
    """Find stages whose last try within a day failed, of runs without Airflow; its runs have `run_failed`."""
    if not inputs.reader:
        return None
    last = {
        str(event["event.action"]): event
        for event in inputs.reader.find(PIPELINE, format_timestamp(now - timedelta(days=1)), format_timestamp(now))
        if not event.get("llmops.run") and event.get("event.action")
    }
    return [
        Breach(
            "stage_failed",
            f"The stage {stage} of {event.get('llmops.interval', '')} failed at {event['@timestamp']}: "
            f"{event.get('error.type')}: {str(event.get('error.message'))[:300]}",
            subject=stage,
        )
        for stage, event in sorted(last.items())
        if event.get("event.outcome") == "failure"
    ]


def check_spool(inputs: CheckInputs, now: datetime) -> list[Breach]:
    """Find sinks with events that wait for too long, or with too many."""
    config = inputs.config
    if not (config.events / "spool.db").exists():
        return []
    breaches = []
    with Spool(config.events) as spool:
        for sink, count in sorted(spool.count_waiting().items()):
            if not (oldest := spool.find_oldest_time(sink)):
                continue
            minutes = (now - datetime.fromisoformat(oldest)).total_seconds() / 60
            late, many = minutes > config.alerts.spool_minutes, count > config.alerts.spool_events
            if late or many:
                message = f"The sink {sink} has yet to take {count:,} events, the oldest of {minutes:,.0f} min ago."
                value, bound = (minutes, config.alerts.spool_minutes) if late else (count, config.alerts.spool_events)
                breaches.append(Breach("spool", message, sink, value, bound, machine=get_machine_id(config)))
    return breaches


def check_disk(inputs: CheckInputs, now: datetime) -> list[Breach]:
    """Find a lack of free space on the home's disk."""
    config = inputs.config
    usage = shutil.disk_usage(find_existing_parent(config.home))
    share = usage.free / usage.total
    if share >= config.alerts.disk_free:
        return []
    message = (
        f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB are free on the disk of {config.home}, {share:.1%}; "
        f"{config.alerts.disk_free:.1%} should be."
    )
    return [Breach("disk", message, value=share, bound=config.alerts.disk_free, machine=get_machine_id(config))]


def check_dag_missing(inputs: CheckInputs, now: datetime) -> list[Breach]:
    """Find DAGs that ran by schedule before and should have run again."""
    config = inputs.config
    beats, breaches = read_heartbeats(config), []
    for dag, hours in sorted(config.alerts.missing_hours.items()):
        if dag not in beats:
            continue
        passed = (now - datetime.fromisoformat(beats[dag])).total_seconds() / 3600
        if passed > hours:
            message = f"{dag} ran by its schedule {passed:,.1f} h ago for the last time, at {beats[dag]}."
            breaches.append(Breach("dag_missing", message, subject=dag, value=passed, bound=hours))
    return breaches


def check_key_expiring(inputs: CheckInputs, now: datetime) -> list[Breach]:
    """Find keys that expire soon, or expired less than a day ago.

    Keys with a validity shorter than the warning time are left out.
    """
    config = inputs.config
    breaches = []
    for key in keys_of(config).list():
        if not key.expires or key.revoked:
            continue
        good_for = datetime.fromisoformat(key.expires) - datetime.fromisoformat(key.created)
        if good_for <= timedelta(days=config.alerts.key_days):
            continue
        days = (datetime.fromisoformat(key.expires) - now).total_seconds() / 86_400
        if -1 < days < config.alerts.key_days:
            when = f"expires in {days:.1f} days, on" if days > 0 else "has expired, on"
            message = f"The API key {key.prefix} of the role {key.role} {when} {key.expires}."
            breaches.append(
                Breach("key_expiring", message, subject=key.prefix, value=days, bound=config.alerts.key_days)
            )
    return breaches


def check_trial_error(inputs: CheckInputs, now: datetime) -> list[Breach]:
    """Find a running trial with a verdict of `error`."""
    registry = registry_of(inputs.config)
    if (trial := registry.canary()) is None:
        return []
    errors = [
        decision for decision in registry.decisions(trial.version) if decision["numbers"].get("trial") == trial.started
    ]
    message = f"The trial of {trial.version} cannot be decided: {errors[-1]['why'] if errors else ''}"
    return [Breach("trial_error", message, subject=trial.version)] if errors else []


def read_heartbeats(config: Config) -> dict[str, str]:
    """Return the time of the last run of each scheduled job."""
    with database_of(config).read() as connection:
        return {row.name: row.time for row in connection.execute(sa.select(tables.heartbeats))}
