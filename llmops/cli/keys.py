"""The command about API keys."""

import argparse
import json
import sys

from llmops.cli.command import Add, get_user
from llmops.config import Config
from llmops.frame.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(keys)
    sub.add_argument("action", choices=["create", "list", "rotate", "revoke"])
    sub.add_argument("prefix", nargs="?", default="", help="for rotate and revoke: the key's prefix")
    sub.add_argument("--role", default="user", choices=["admin", "developer", "user"])
    sub.add_argument("--owner", default=get_user(), help="owner of the key")
    sub.add_argument("--days", type=float, default=None, help="days until it expires")
    sub.add_argument("--requests-per-minute", type=int, help="its own limit; 0: none (default: the app's)")
    sub.add_argument("--tokens-per-minute", type=int, help="its own limit; 0: none (default: the app's)")
    sub.add_argument("--hours", type=float, default=24.0, help="for rotate: how long the old secret stays valid")


def keys(settings: Config, options: argparse.Namespace) -> None:
    """Create, list, rotate and revoke API keys."""
    from llmops.access.keys import keys_of

    if options.prefix and options.action in ("create", "list"):
        raise ConfigError(f"keys {options.action}: it takes no prefix; an owner is --owner {options.prefix}.")
    store = keys_of(settings)
    if options.action in ("create", "rotate"):
        if options.action == "create":
            limits = {name: getattr(options, name) for name in ("requests_per_minute", "tokens_per_minute")}
            secret, key = store.create(options.role, options.owner, options.days, **limits, by=get_user())
        else:
            secret, key = store.rotate(options.prefix, options.hours, by=get_user())
        print(json.dumps({"key": secret, **key.without_hashes()}) if options.json else secret)
        print("Shown this once; only its hash is kept.", file=sys.stderr)
    elif options.action == "revoke":
        store.revoke(options.prefix, by=get_user())
    else:
        rows = [key.without_hashes() for key in store.list()]
        if options.json:
            print(json.dumps(rows))
        for row in [] if options.json else rows:
            shown = [row[name] for name in ("prefix", "role", "owner", "created", "expires", "revoked")]
            print("  ".join(f"{value or '-'}" for value in shown))
