"""The command `data`: forget a person, or show the receipt of it.

The sources are not changed: the rows to delete there are listed. The exit status is 1 if a file or
database still names the person.
"""

import argparse
import json

from llmops.cli.command import Add, get_user
from llmops.cli.output import print_line, print_text
from llmops.config import Config
from llmops.frame.errors import ConfigError


def add_to(add: Add) -> None:
    """Add this command to the parser."""
    sub = add(data)
    sub.add_argument("action", choices=["forget", "receipt"])
    sub.add_argument("subject", help="forget: an e-mail address, full name, customer or phone number, one at a time; "
                                     "receipt: its number")  # fmt: skip
    sub.add_argument("--dry-run", action="store_true", help="only show what would be done")


def data(settings: Config, options: argparse.Namespace) -> int:
    """Forget a person: delete all data made from their rows and mark models trained on them; or show a receipt."""
    from dataclasses import asdict

    from llmops.privacy.erasure import plan
    from llmops.privacy.erasure.forget import forget_person

    if options.action == "receipt":
        print_text(json.dumps(plan.read_receipt(settings, _parse_number(options.subject)), indent=1))
        return 0
    erasure = forget_person(settings, options.subject, by=get_user(), dry_run=options.dry_run)
    receipt = erasure.receipt
    if options.json:
        print_line(json.dumps(asdict(erasure)))
        return 1 if receipt.remaining else 0
    forgot, deleted = ("would forget", "would be") if options.dry_run else ("forgot", "were")
    print_line(f"{forgot} a person in {receipt.documents} source rows; {deleted} deleted or rewritten here:")
    for name, number in [("artifacts", len(receipt.artifacts)), *receipt.deleted.items()]:
        print_line(f"  {name:<12} {number}")
    for v in receipt.versions:
        names = f" ({', '.join(v['aliases'])})" if v["aliases"] else ""
        print_line(f"learned from {v['examples']} examples: {v['model']} {v['version']}{names}")
    for p in erasure.documents:
        print_line(f"delete it in the source {p['source']}: {p['location']}, {p['position']}")
    for place in receipt.unreached:
        print_line(f"not reached: {place}")
    for path in receipt.remaining:
        print_line(f"STILL NAMED IN: {path}")
    if receipt.number:
        count = len(receipt.remaining) or "no"
        print_line(f"receipt {receipt.number}; searched again: {count} places still name the person")
    return 1 if receipt.remaining else 0


def _parse_number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"A receipt is named by its number, not by {text!r}.")
    return int(text)
