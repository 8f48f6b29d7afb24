"""Plain text, cut at blank lines into parts that are short enough to work with."""

from __future__ import annotations

from pathlib import Path

from llmops.data.collect.readers.decode import LARGEST, lines, open_text
from llmops.data.collect.readers.origin import Items, Origin

PART = 8000  #: characters from which the next blank line begins another document, and twice as many any line


def read(path: Path, origin: Origin) -> Items:
    """Yield the file as one document, or a long one in parts; only one part is held in memory.

    Raises:
        Unreadable: if the file is no text or breaks off; the parts before the break have been yielded then.
    """
    part: list[str] = []
    begins, size, empty = 1, 0, True
    with open_text(path, origin) as (file, origin):
        for number, line in enumerate(lines(file), start=1):
            if len(line) > LARGEST:
                yield origin.dropped(f"line {number}", "malformed", f"longer than {LARGEST:,} characters", line)
                empty = False
                continue
            blank = not line.strip()
            if size >= PART and (blank or size >= 2 * PART):
                yield origin.document(f"line {begins}", text="".join(part).strip())
                part, size = [], 0
            if part or not blank:
                begins, empty = begins if part else number, False
                part.append(line)
                size += len(line)
    if part:
        yield origin.document(f"line {begins}", text="".join(part).strip())
    if empty:
        yield origin.dropped("file", "empty", "the file is empty")
