"""How much of a text is lines that it said before."""

from __future__ import annotations

#: Largest share of duplicate lines in a text worth keeping: Gopher's (Rae et al. 2021, arXiv:2112.11446, table A1).
MAX_DUPLICATE_LINES = 0.3
MIN_LINES = 4  #: in a text of fewer lines one line that stands twice is already above that share, often by chance


def duplicate_line_share(text: str) -> float:
    """The share (0 to 1) of a text's lines that stood in it before; 0 if it has fewer than `MIN_LINES`.

    Blank lines do not count, nor does white space at either end of a line.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= MIN_LINES else 0.0
