"""The output of commands. Every command prints by these functions, because what it prints may be foreign text."""

import sys
from typing import TextIO

from llmops.frame.printable import escape_controls


def print_line(text: str = "", *, to: TextIO | None = None) -> None:
    """Print one line (default: to stdout). A line break within it is escaped, as all controls are."""
    _write(escape_controls(text, keep="\t"), to)


def print_text(text: str, *, to: TextIO | None = None) -> None:
    """Print a text of several lines (default: to stdout). Its line breaks stay, other controls are escaped."""
    _write(escape_controls(text, keep="\n\t"), to)


def _write(text: str, to: TextIO | None) -> None:
    print(text, file=to or sys.stdout, flush=True)
