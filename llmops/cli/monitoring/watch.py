"""The commands that watch the served model: drift, decay."""

import argparse
import json
from datetime import UTC, datetime

from llmops.cli.command import Add
from llmops.cli.output import print_line
from llmops.config import Config
from llmops.frame.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(drift)
    sub.add_argument("--against", choices=["training", "served"], help="the reference (default: as docs/drift.md)")
    sub.add_argument("--until", default="", help="end of the window at the latest, as 2026-01-31 (default: now)")
    add(decay)


def drift(settings: Config, options: argparse.Namespace) -> None:
    """Compare the champion's last window of requests with its reference. A window judged before is only shown."""
    from llmops.events.shipping import drain_spool
    from llmops.monitoring.drift.watch import watch_drift

    drain_spool(settings.events, settings.monitoring)
    found = watch_drift(settings, _parse_time(options.until), options.against)
    if options.json:
        print_line(json.dumps(found))
        return
    if found["state"] != "judged":
        print_line(f"Nothing is judged: {found['why']}.")
        return
    print_line(
        f"{found['requests']} requests to {found['version']}, {found['since']} to {found['until']}, beside what was"
    )
    print_line({"training": "in its training data:", "served": "asked in its first days:"}[found["reference"]])
    for one in found["comparisons"]:
        drifts, differs = one["windows"] >= settings.alerts.drift_windows, one["drifted"]
        state = f"DRIFT, {one['windows']} windows" if drifts else "differs" if differs else "as before"
        figures = f"{one['test']:<18} effect {one['effect']:6.3f}  q {one['q_value']:.3g}"
        print_line(f"{one['side']:<7} {one['feature']:<14} {figures:<46} {state}")
        if one["drifted"] and one["topics"]:
            print_line(f"{'':<22} {', '.join(one['topics'])}")


def decay(settings: Config, options: argparse.Namespace) -> None:
    """Measure the champion today, and show how its quality changed over the last 90 days."""
    from llmops.events.shipping import drain_spool
    from llmops.monitoring.decay.watch import describe_figure, watch_decay

    drain_spool(settings.events, settings.monitoring)
    found = watch_decay(settings)
    if options.json:
        print_line(json.dumps(found))
        return
    if found["state"] != "measured":
        print_line(f"Nothing is measured: {found['why']}.")
        return
    print_line(f"{found['version']}, {found['day']}")
    for figure in found["figures"]:
        print_line(describe_figure(figure))


def _parse_time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--until {text!r} is no date or time; write it as 2026-01-31.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
