"""The command that sets up Elasticsearch and Kibana."""

import argparse
import json

from llmops.cli.command import Add
from llmops.cli.output import print_line
from llmops.config import Config


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    add(elk).add_argument("action", choices=["setup"])


def elk(settings: Config, options: argparse.Namespace) -> int:
    """Set up Elasticsearch and Kibana for our events; exit status 3: a server could not take all."""
    from llmops.monitoring.elk.setup import EXIT_INCOMPLETE, run_setup

    results = []
    for result in run_setup(settings.monitoring):
        results.append(result)
        if not options.json:
            print_line(f"{result.outcome:9}  {result.step}" + (f": {result.reason}" if result.reason else ""))
    if options.json:
        print_line(json.dumps([{"thing": one.step, "what": one.outcome, "why": one.reason} for one in results]))
    return EXIT_INCOMPLETE if any(result.outcome == "cannot" for result in results) else 0
