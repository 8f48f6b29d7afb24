"""The share of repeated lines in a text."""

from collections import Counter

from llmops.data.text.running_text import is_running_text

#: Largest share of repeated lines in a good text: Gopher's (Rae et al. 2021, arXiv:2112.11446, table A1).
MAX_DUPLICATE_LINES = 0.3
MIN_LINES = 4  #: in shorter texts one repeated line, often by chance, exceeds that share


def compute_duplicate_line_share(text: str) -> float:
    """Return the share (0 to 1) of a text's lines that repeat earlier ones; 0 if it has fewer than `MIN_LINES`.

    Blank lines and surrounding white space do not count. Equal lines of code and tables, such as `}`, are not
    repetitions. In 4,778 sections of Debian's documentation of Python, Git and itself, 63 exceed the limit with them,
    58 of which are good, and 11 without them, 6 of which are good.
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    if len(lines) < MIN_LINES or len(set(lines)) == len(lines):
        return 0.0
    repeated = (number - 1 for line, number in Counter(lines).items() if number > 1 and is_running_text(line))
    return sum(repeated) / len(lines)
