"""The commands about improvement from feedback: feedback, improve."""

import argparse
import json
from datetime import datetime
from typing import Any

from llmops.cli.command import Add, get_user
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(feedback)
    sub.add_argument("action", choices=["list", "accept", "edit", "refuse"])
    sub.add_argument("id", nargs="?", default="", help="id of the entry; its beginning is enough")
    sub.add_argument("--state", action="append", default=[], help="with list: states (default: waiting)")
    sub.add_argument("--text", default="", help="with edit: the answer to train on")
    sub.add_argument("--key", default="", help="with refuse, instead of an id: all that waits from this key's prefix")
    sub.add_argument("--why", default="", help="the reason, for later readers")
    sub = add(improve)
    sub.add_argument("action", choices=["report"])
    sub.add_argument("--since", default="", help="ISO date; default: the end of the last report")
    sub.add_argument("--until", default="", help="ISO date, exclusive; default: today")


def feedback(settings: Config, options: argparse.Namespace) -> None:
    """List feedback that waits for a person; accept, edit or refuse it."""
    from llmops.data.feedback import review
    from llmops.state.database import database_of

    if options.action == "list":
        review.refresh(settings)
        entries = review.list_entries(database_of(settings), options.state or ["waiting"])
        if options.json:
            print_line(json.dumps(entries))
        for entry in [] if options.json else entries:
            _print_entry(entry)
        if not (entries or options.json):
            print_line("nothing waits")
        return
    if options.key and not options.id and options.action == "refuse":
        refused = review.refuse_all(settings, options.key, by=get_user(), why=options.why, who={})
        print_line(json.dumps({"refused": refused}) if options.json else f"refused {refused}")
        return
    if not options.id:
        raise ConfigError(f"feedback {options.action}: say which one; `llmops feedback list` has their ids.")
    decision = {"by": get_user(), "text": options.text, "why": options.why}
    row = review.decide(settings, options.id, options.action, **decision, who={})
    print_line(json.dumps({"id": row.id, "state": row.state, "text": row.text}) if options.json else row.state)


def _print_entry(entry: dict[str, Any]) -> None:
    people = ", ".join(f"{p['role']} {p['prefix']}" for p in entry["people"][:3])
    more = f" and {len(entry['people']) - 3} more" if len(entry["people"]) > 3 else ""
    print_line(f"{entry['id']}  {entry['state']}: {entry['why']}  ({people}{more})")
    for name in ("question", "answer", "correction", "edited", "comment"):
        if entry[name]:
            print_line(f"  {name:<10} {' '.join(entry[name].split())}")


def improve(settings: Config, options: argparse.Namespace) -> None:
    """Report in words what users said, which of it trains and why, and the effect on the model."""
    from llmops.monitoring.improve import rendering, report

    dates = _check_dates(options)
    since, until = (datetime.fromisoformat(f"{text}T00:00:00+00:00") if text else None for text in dates)
    made = report.build_improvement_report(settings, since=since, until=until)
    print_text(json.dumps(made) if options.json else rendering.render_markdown(made))


def _check_dates(options: argparse.Namespace) -> tuple[str, str]:
    for text in (options.since, options.until):
        try:
            _ = text and datetime.strptime(text, "%Y-%m-%d")
        except ValueError:
            raise ConfigError(f"{text!r} is no date; write it as 2026-01-31.") from None
    return options.since, options.until
