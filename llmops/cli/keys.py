"""The command about API keys."""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from llmops.cli.command import Add, get_user
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame.errors import ConfigError

_LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_month")


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(keys)
    sub.add_argument("action", choices=["create", "list", "rotate", "revoke", "usage"])
    sub.add_argument("prefix", nargs="?", default="", help="for rotate, revoke and usage: the key's prefix")
    sub.add_argument("--role", default="user", choices=["admin", "developer", "user"])
    sub.add_argument("--owner", default=get_user(), help="owner of the key")
    sub.add_argument("--days", type=float, default=None, help="days until it expires")
    sub.add_argument("--requests-per-minute", type=int, help="its own limit; 0: none (default: the app's)")
    sub.add_argument("--tokens-per-minute", type=int, help="its own limit; 0: none (default: the app's)")
    sub.add_argument("--tokens-per-month", type=int, help="its budget of a calendar month, UTC (default: none)")
    sub.add_argument("--hours", type=float, default=24.0, help="for rotate: how long the old secret stays valid")
    sub.add_argument("--month", default="", help="for usage: YYYY-MM, in UTC (default: this month)")
    sub.add_argument("--csv", action="store_true", help="for usage: print the days as CSV")


def keys(settings: Config, options: argparse.Namespace) -> None:
    """Create, list, rotate and revoke API keys, and show what they have used."""
    from llmops.access.keys import keys_of

    if options.prefix and options.action in ("create", "list"):
        raise ConfigError(f"keys {options.action}: it takes no prefix; an owner is --owner {options.prefix}.")
    if options.action == "usage":
        _print_usage(settings, options)
        return
    store = keys_of(settings)
    if options.action in ("create", "rotate"):
        if options.action == "create":
            limits = {name: getattr(options, name) for name in _LIMITS}
            secret, key = store.create(options.role, options.owner, options.days, **limits, by=get_user())
        else:
            secret, key = store.rotate(options.prefix, options.hours, by=get_user())
        print_line(json.dumps({"key": secret, **key.without_hashes()}) if options.json else secret)
        print_line("Shown this once; only its hash is kept.", to=sys.stderr)
    elif options.action == "revoke":
        store.revoke(options.prefix, by=get_user())
    else:
        rows = [key.without_hashes() for key in store.list()]
        if options.json:
            print_line(json.dumps(rows))
        for row in [] if options.json else rows:
            shown = [row[name] for name in ("prefix", "role", "owner", "created", "expires", "revoked")]
            print_line("  ".join(f"{value or '-'}" for value in shown))


def _print_usage(settings: Config, options: argparse.Namespace) -> None:
    from llmops.access.usage import format_csv, format_month, parse_month, read_usage
    from llmops.state.database import database_of

    month = parse_month(options.month) if options.month else format_month(datetime.now(UTC))
    found = read_usage(database_of(settings), month, options.prefix)
    if options.json:
        print_line(json.dumps(asdict(found)))
    elif options.csv:
        print_text(format_csv(found.days).rstrip("\n"))
    else:
        for key in found.keys:
            tokens = key.input_tokens + key.output_tokens
            budget = f" of {key.tokens_per_month} ({tokens / key.tokens_per_month:.0%})" if key.tokens_per_month else ""
            print_line(f"{key.key}  {key.owner or '-'}  {key.requests} requests  {tokens} tokens{budget}")
