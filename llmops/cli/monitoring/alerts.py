"""The command about alerts."""

import argparse
import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import get_args

from llmops.cli.command import Add, get_user
from llmops.cli.output import print_line
from llmops.config import Config
from llmops.config.alerts import Rule
from llmops.frame.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(alerts)
    sub.add_argument("action", choices=["list", "silence", "unsilence", "test", "watch"])
    sub.add_argument("what", nargs="?", default="", help="for silence: the rule; for unsilence: the silence's number")
    sub.add_argument("--subject", default="", help="for silence: only alerts about this (default: any)")
    sub.add_argument("--reason", default="", help="for silence: why")
    sub.add_argument("--hours", type=float, default=2.0, help="for silence: for how long")


def alerts(settings: Config, options: argparse.Namespace) -> int:
    """List and silence alerts, test their receivers, or judge the rules every minute until stopped."""
    actions = {"list": _list, "silence": _silence, "unsilence": _unsilence, "test": _test, "watch": _watch}
    if options.what and options.action not in ("silence", "unsilence"):
        raise ConfigError(f"alerts {options.action}: it takes no {options.what!r}.")
    return actions[options.action](settings, options)


def _list(settings: Config, options: argparse.Namespace) -> int:
    from llmops.monitoring.alerts.lifecycle import list_alerts

    found = list_alerts(settings, datetime.now(UTC))
    if options.json:
        print_line(json.dumps(found))
        return 0
    for row in found["open"]:
        silenced = "" if row["told"] else "  (silenced)"
        print_line(f"{row['severity']:<8}  {row['rule']}  {row['subject'] or '-'}  since {row['raised']}{silenced}")
        print_line(f"          {row['finding']['message']}  {settings.alerts.runbook}#{row['rule']}")
    for row in found["over"]:
        print_line(f"over      {row['rule']}  {row['subject'] or '-'}  {row['raised']} to {row['resolved']}")
    for row in found["silences"]:
        print_line(
            f"silence {row['id']}  {row['rule']}  {row['subject'] or 'any'}  until {row['until']}: {row['reason']}"
        )
    for row in found["deliveries"]:
        print_line(f"{row['outcome']}  {row['receiver']}  {row['id']}  {row['tries']} tries: {row['error']}")
    if not found["open"]:
        print_line("No alert is open.")
    return 0


def _silence(settings: Config, options: argparse.Namespace) -> int:
    from llmops.monitoring.alerts.lifecycle import add_silence

    if options.what not in get_args(Rule):
        raise ConfigError(f"alerts silence: there is no rule {options.what!r}; there are {', '.join(get_args(Rule))}.")
    if not 0 < options.hours <= 24 * 366:
        raise ConfigError(f"alerts silence: --hours must be more than 0 and at most a year, not {options.hours:g}.")
    now = datetime.now(UTC)
    until = now + timedelta(hours=options.hours)
    made = add_silence(settings, options.what, options.subject, options.reason, get_user(), now, until)
    print_line(json.dumps(made) if options.json else f"silence {made['id']} until {made['until']}")
    return 0


def _unsilence(settings: Config, options: argparse.Namespace) -> int:
    from llmops.monitoring.alerts.lifecycle import end_silence

    if not options.what.isdecimal():
        raise ConfigError("alerts unsilence: give the number that `llmops alerts list` shows.")
    end_silence(settings, int(options.what), get_user(), datetime.now(UTC))
    return 0


def _test(settings: Config, options: argparse.Namespace) -> int:
    from llmops.monitoring.alerts.receivers import make_receivers, send_test_message

    results = send_test_message(settings, make_receivers(settings))
    if options.json:
        print_line(json.dumps(results))
    for name, error in {} if options.json else results.items():
        print_line(f"{name}: {error or 'told'}")
    return 1 if any(results.values()) else 0


def _watch(settings: Config, options: argparse.Namespace) -> int:
    from llmops.monitoring.alerts.threads import AlertThreads

    if not settings.alerts.every_s:
        raise ConfigError("alerts watch: alerts.every_s is 0, so nothing is judged.")
    watch = AlertThreads(settings)
    signal.signal(signal.SIGTERM, lambda *_: watch.stop(0.0))
    watch.start()
    print_line(f"The rules are judged every {settings.alerts.every_s:g} s until this is stopped.", to=sys.stderr)
    try:
        watch.wait()
    finally:
        watch.stop()
    return 0
