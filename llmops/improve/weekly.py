"""The steps of the weekly improvement, as its DAG calls them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from llmops import artifacts
from llmops.config import Config
from llmops.data.feedback import rows
from llmops.improve import report as reports
from llmops.improve import words
from llmops.monitoring.events import timestamp
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.base import SinkError
from llmops.state.database import database_of

log = logging.getLogger(__name__)


def read(config: Config, moment: datetime) -> dict[str, Any]:
    """Take in what users said, and count what is new: what was accepted since the last report, in whole days.

    Args:
        config: the whole configuration.
        moment: of the run; counted is up to the midnight before it, since the pipeline reads the day before.

    A sink that is down is logged and stops nothing.

    Returns:
        `since`, `until` (ISO times), `new`, and how many there are in each state.

    Raises:
        EventsUnavailable: if what users said cannot be read now.
    """
    try:
        drain(config.events, config.monitoring)
    except SinkError as error:  # what is read may be at another sink; llm_monitoring tells of this one
        log.warning("%s The weekly work goes on.", error)
    counts = reports.take_in(config)
    until = reports.midnight(moment)
    since = reports.last_until(config, until)
    can_train = any(source.kind == "feedback" for source in config.collect.sources)
    new = sum(row.decided >= timestamp(since) for row in rows.trained(database_of(config), timestamp(until)))
    if not can_train:
        log.warning("No source of the kind `feedback` is configured, so that nothing of what users say trains.")
    waiting = counts.get("waiting", 0) + counts.get("held", 0)
    log.info("%s; %d waiting for a person", f"{new} new examples" if new else "nothing new", waiting)
    return {"since": since.isoformat(), "until": until.isoformat(), "new": new if can_train else 0, "counts": counts}


def report(config: Config, since: datetime, until: datetime, run: str, new: bool, trained: bool) -> str:
    """Write the report of a run; returns its artifact, as "improve/fingerprint"."""
    return _report(config, since, until, run, "nothing new" if not new else "trained" if trained else "failed")


def report_unread(config: Config, moment: datetime, run: str) -> str:
    """Write the report of a run whose `read` has failed; the next one tells of the same days again."""
    until = reports.midnight(moment)
    return _report(config, reports.last_until(config, until), until, run, words.UNREAD)


def _report(config: Config, since: datetime, until: datetime, run: str, ended: str) -> str:
    now = datetime.now(UTC).replace(microsecond=0)  # decisions know seconds: those of this one are the next report's
    decided = reports.last_decided(config, until), now
    found = reports.gather(config, since=since, until=until, decided=decided, readable=ended != words.UNREAD)
    path = reports.keep(config, found, run=run, ended=ended)
    log.info("%s It is in %s.", words.headline({**found, "ended": ended}), path / "report.md")  # no text of a user
    return artifacts.ref(path)
