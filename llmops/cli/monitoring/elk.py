"""The command that sets up Elasticsearch and Kibana."""

from __future__ import annotations

import argparse
import json

from llmops.cli.command import Add
from llmops.config import Config
from llmops.errors import ConfigError


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(elk)
    sub.add_argument("action", choices=["setup", "check", "down"])
    sub.add_argument("--data", action="store_true", help="for down: remove the events, too")


def elk(settings: Config, options: argparse.Namespace) -> int:
    """Set up Elasticsearch and Kibana for our events, check that, or take it down; 3: not all was accepted."""
    from llmops.elk import setup

    if options.data and options.action != "down":
        raise ConfigError(f"elk {options.action}: --data is for down.")
    if options.action == "down":
        steps = setup.down(settings.monitoring, options.data)
    else:
        steps = (setup.setup if options.action == "setup" else setup.check)(settings.monitoring)
    said = []
    for one in steps:
        said.append(one)
        if not options.json:
            print(f"{one.what:9}  {one.thing}" + (f": {one.why}" if one.why else ""), flush=True)
    if options.json:
        print(json.dumps([one._asdict() for one in said]))
    return setup.status(said)
