"""The distinction of running text from code and tables, which repeat themselves naturally."""

import re

# Never in prose, at its end or at its beginning: operators, calls, prompts, borders of table cells.
_NO_PROSE = re.compile(r"[{}=<>\\|\t]|\w_|_\w|\w[(\[]|[;(\[,]$|^[)\]]|^(?:[$#%+@]\s|\.\.|(?!.*\w))")


def is_running_text(line: str) -> bool:
    """Return True if a line, without surrounding space, may be prose: neither code nor a table row."""
    return not _NO_PROSE.search(line)


def select_running_text(text: str) -> str:
    """Return the lines of `text` that may be prose; the whole text if it has only one line."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if is_running_text(line.strip())) if len(lines) > 1 else text
