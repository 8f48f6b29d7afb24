"""The command about the data: forget a person."""

from __future__ import annotations

import argparse
import json

from llmops.cli.command import Add, who
from llmops.config import Config


def add_to(add: Add) -> None:
    """Add these commands to the parser."""
    sub = add(data)
    sub.add_argument("action", choices=["forget"])
    sub.add_argument("subject", help="e-mail address, full name, customer or phone number; one at a time")
    sub.add_argument("--dry-run", action="store_true", help="only tell what would be done")


def data(settings: Config, options: argparse.Namespace) -> int:
    """Forget a person: erase their rows everywhere, mark the models trained on them, and search for what is left."""
    from dataclasses import asdict

    from llmops.erasure.forget import forget

    report = forget(settings, options.subject, by=who(), dry_run=options.dry_run)
    if options.json:
        print(json.dumps(asdict(report)))
        return 1 if report.remaining else 0
    print(f"{'would forget' if report.dry_run else 'forgot'} {report.documents} rows of the sources:")
    for place, rows in [*report.rows.items(), ("online store", report.online), ("marks in texts", report.texts)]:
        print(f"  {place:<28} {rows}")
    for v in report.versions:
        names = f" ({', '.join(v['aliases'])})" if v["aliases"] else ""
        print(f"trained on {v['examples']} of them: {v['model']} {v['version']}{names}")
    for p in report.sources:
        print(f"delete it in the source {p['source']}: {p['location']}, {p['position']}")
    for note in report.notes:
        print(f"note: {note}")
    for place in report.unreached:
        print(f"not reached: {place}")
    for path, where in report.remaining.items():
        print(f"STILL NAMED: {path}, {where}")
    if not report.dry_run and not report.remaining:
        print("searched all files again: nothing names this person any more")
    return 1 if report.remaining else 0
