"""The command that sets up Elasticsearch and Kibana."""

import argparse
import json

from llmops.cli.command import Add
from llmops.config import Config


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    add(elk).add_argument("action", choices=["setup"])


def elk(settings: Config, options: argparse.Namespace) -> int:
    """Set up Elasticsearch and Kibana for our events; exit status 3: a server could not take all."""
    from llmops.elk.setup import INCOMPLETE, setup

    said = []
    for one in setup(settings.monitoring):
        said.append(one)
        if not options.json:
            print(f"{one.what:9}  {one.thing}" + (f": {one.why}" if one.why else ""), flush=True)
    if options.json:
        print(json.dumps([one._asdict() for one in said]))
    return INCOMPLETE if any(one.what == "cannot" for one in said) else 0
