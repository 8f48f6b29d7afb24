"""Running text, as against code and tables, which repeat themselves by nature."""

from __future__ import annotations

import re

# What prose has nowhere, at its end or at its beginning: operators, calls, prompts, the borders of a table's cells.
_NO_PROSE = re.compile(r"[{}=<>\\|\t]|\w_|_\w|\w[(\[]|[;(\[,]$|^[)\]]|^(?:[$#%+@]\s|\.\.|(?!.*\w))")


def is_running_text(line: str) -> bool:
    """Whether a line, without space around it, may be prose: neither code nor a row of a table."""
    return not _NO_PROSE.search(line)


def running_text(text: str) -> str:
    """The lines of `text` that may be prose; all of a text of one line, which is no table and hardly code."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if is_running_text(line.strip())) if len(lines) > 1 else text
