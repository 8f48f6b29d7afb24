"""The command that checks this machine."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.cli.command import Add
from llmops.cli.output import print_line
from llmops.config import Config
from llmops.frame.errors import LlmopsError

if TYPE_CHECKING:
    from llmops.frame.doctor import Check


def add_to(add: Add) -> None:
    """Add the command to the parser."""
    sub = add(doctor)
    sub.add_argument(
        "--compose", nargs="+", type=Path, metavar="FOLDER", help="in Docker Compose: check memory, kernel, and volumes"
    )


def doctor(settings: Config, options: argparse.Namespace) -> int:
    """Check that this machine has what the pipeline needs, each failure with its remedy."""
    from llmops.frame.compose import check_container
    from llmops.frame.doctor import check_machine

    if options.compose:
        profiles = os.environ.get("COMPOSE_PROFILES", "").split(",")
        checks = check_container(options.compose, profiles, float(os.environ.get("CPUS") or 0))
    else:
        checks = [*check_machine(settings), _check_database(settings)]
    if options.json:
        print_line(json.dumps([{"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks]))
    for c in [] if options.json else checks:
        print_line(f"{'ok  ' if c.ok else 'FAIL'}  {c.name}: {c.detail}" + ("" if c.ok else f"  → {c.remedy}"))
    return 0 if all(c.ok for c in checks) else 1


def _check_database(settings: Config) -> Check:
    from llmops.frame.doctor import Check
    from llmops.state.database import database_of

    try:
        return Check("database", True, database_of(settings).describe())
    except LlmopsError as error:
        return Check("database", False, str(error), "start the database, or correct `state.url` (docs/deployment.md)")
