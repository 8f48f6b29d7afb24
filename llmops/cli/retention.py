"""The command `gc`: remove files of artifacts and model versions that nothing needs any more."""

import argparse
import json
import sys

from llmops.cli.command import Add, get_user
from llmops.cli.output import print_line
from llmops.config import Config
from llmops.frame.printable import escape_controls


def add_to(add: Add) -> None:
    """Add this command to the parser."""
    add(gc).add_argument("--dry-run", action="store_true", help="only show what would go, what stays, and why")


def gc(settings: Config, options: argparse.Namespace) -> None:
    """Remove files of artifacts and versions that the section `retention` does not keep. Their records stay."""
    from llmops.privacy.retention.disk import get_free_bytes
    from llmops.privacy.retention.gc import collect_garbage

    plan = collect_garbage(settings, by=get_user(), dry_run=options.dry_run)
    if options.json:
        items = [item.as_json() for item in plan.items]
        document = {
            "dry_run": options.dry_run,
            "frees": plan.freed_bytes,
            "free": get_free_bytes(settings),
            "items": items,
        }
        print_line(json.dumps(document))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("", "what", "of", "interval", box=SIMPLE, pad_edge=False)
    table.add_column("MB", justify="right")
    table.add_column("because", overflow="fold")
    for item in sorted(plan.items, key=lambda item: not item.goes):
        word = ("goes" if options.dry_run else "gone") if item.goes else "stays"
        name = f"{item.model} {item.name}".strip()
        cells = (word, item.kind, name, item.interval, f"{item.size / 1e6:,.1f}", item.why)
        table.add_row(*map(escape_controls, cells))
    if plan.items:
        Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
    print_line(
        f"{len(plan.removals)} of {len(plan.items)} {'would go' if options.dry_run else 'are gone'}, which "
        f"{'would free' if options.dry_run else 'freed'} {plan.freed_bytes / 1e6:,.1f} MB; "
        f"{get_free_bytes(settings) / 1e9:,.1f} GB of the disk are free."
    )
