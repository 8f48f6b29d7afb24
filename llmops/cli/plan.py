"""The command that shows what a run would do and need, without running it."""

import argparse
import json
import sys

from llmops.cli.command import Add
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame.intervals import parse_interval


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(plan)
    sub.add_argument("--interval", default="", help="day to read, which has ended, as 2026-01-31 (default: yesterday)")
    sub.add_argument(
        "--gpu", type=float, metavar="GIB", help="plan for a GPU with this much memory, not for this machine"
    )


def plan(settings: Config, options: argparse.Namespace) -> int:
    """Show what a run would build and needs, and check that it is there. Nothing is built."""
    from llmops.frame.doctor import format_checks
    from llmops.pipeline.dry_run import make_dry_run

    found = make_dry_run(settings, parse_interval(options.interval), options.gpu)
    if options.json:
        print_line(json.dumps(found.as_json()))
        return 0 if found.ok else 1
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for state in ("done", "to build", "not known yet"):
        if names := [name for name, known in found.stages if known == state]:
            print_line(f"{state}: {', '.join(names)}")
    kinds = list(dict.fromkeys(row.kind for row in found.memory))
    memory = Table("stage", box=SIMPLE, pad_edge=False)
    for kind in kinds:
        memory.add_column(f"GiB needed, {kind}", justify="right")
        memory.add_column("there", justify="right")
    memory.add_column("")
    for stage in dict.fromkeys(row.stage for row in found.memory):
        rows = [row for row in found.memory if row.stage == stage]
        cells = [f"{value:.1f}" for row in rows for value in (row.needed, row.there)]
        memory.add_row(stage, *cells, "ok" if all(row.ok for row in rows) else "TOO LITTLE")
    console.print(memory)
    # The table has the others.
    beside = [check for check in found.checks if not (check.ok and check.name.startswith("memory:"))]
    print_text(format_checks(beside).rstrip("\n"))
    return 0 if found.ok else 1
