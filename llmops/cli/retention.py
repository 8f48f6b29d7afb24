"""The command that removes unneeded data."""

from __future__ import annotations

import argparse
import json
import sys

from llmops.cli.command import Add, who
from llmops.config import Config


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    add(gc).add_argument("--dry-run", action="store_true", help="only show what would go, what stays, and why")


def gc(settings: Config, options: argparse.Namespace) -> None:
    """Remove unneeded data of artifacts and versions; the section `retention` says what stays."""
    from llmops.retention.gc import gc as remove

    removed = remove(settings, by=who(), dry_run=options.dry_run)
    if options.json:
        print(json.dumps(removed.as_json()))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("", "what", "of", "interval", box=SIMPLE, pad_edge=False)
    table.add_column("MB", justify="right")
    table.add_column("because", overflow="fold")
    for item in sorted(removed.plan.items, key=lambda item: not item.goes):
        word = ("goes" if removed.dry_run else "gone") if item.goes else "stays"
        name = f"{item.model} {item.name}".strip()
        table.add_row(word, item.kind, name, item.interval, f"{item.size / 1e6:,.1f}", item.why)
    if removed.plan.items:
        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
    going = len(removed.plan.going)
    print(
        f"{going} of {len(removed.plan.items)} {'would go' if removed.dry_run else 'are gone'}, which "
        f"{'would free' if removed.dry_run else 'freed'} {removed.plan.frees / 1e6:,.1f} MB; "
        f"{removed.free / 1e9:,.1f} GB of the disk are free."
    )
