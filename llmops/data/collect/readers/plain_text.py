"""Plain text, cut at blank lines into parts that are short enough to work with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmops.data.collect.readers.decode import LARGEST, lines, open_text
from llmops.data.collect.readers.origin import Items, Origin, trimmed
from llmops.data.text.headings import asks
from llmops.data.text.questions import Heading, blocks

PART = 8000  #: characters from which the next blank line begins another document, and twice as many any line


def read(path: Path, origin: Origin) -> Items:
    """Yield the file as one document, or a long one in parts; only one part is held in memory.

    A part ends before a question, if there is one in it, so that question and answer stay together, and begins with the
    numbered headings that it stands under.

    Raises:
        Unreadable: if the file is no text or breaks off; the parts before the break have been yielded then.
    """
    above = ""  # the headings that the part stands under
    part, begins, empty = "", 1, True
    asked = False  # whether the part is one question, which its answer does not leave for a while
    with open_text(path, origin) as (file, origin):
        for number, line in enumerate(lines(file), start=1):
            if len(line) > LARGEST:
                yield origin.dropped(f"line {number}", "malformed", f"longer than {LARGEST:,} characters", line)
                empty = False
                continue
            blank = not line.strip()
            if len(part) >= PART and ((blank and not asked) or len(part) >= 2 * PART):
                end, headings, asked = _end(above, part, len(part) >= 2 * PART)
                if end:
                    yield origin.document(f"line {begins}", text=trimmed(above + part[:end]))
                    begins += part.count("\n", 0, end)
                    above, part, asked = headings, part[end:], False
            if part or not blank:
                begins, empty = begins if part else number, False
                part += line
    if part:
        yield origin.document(f"line {begins}", text=trimmed(above + part))
    if empty:
        yield origin.dropped("file", "empty", "the file is empty")


def _end(above: str, part: str, late: bool) -> tuple[int, str, bool]:
    """Where in a part to cut it, the headings that the rest stands under, and whether to wait as it is one question.

    Args:
        above: the headings that the part stands under, as they begin it.
        part: the rest of it.
        late: whether it is as long as it may be.
    """
    found = [block for block in blocks(above + part) if block.start >= len(above)]
    number = max((i for i, block in enumerate(found) if block.question), default=-1)
    if any(not block.heading.level for block in found[: max(number, 0)]):
        return found[number].start - len(above), _lines(found[number].above), False
    if number >= 0 and not late:
        return 0, "", True
    last = found[-1]
    under = [*last.above, last.heading] if last.heading.level else last.above
    return len(part), _lines(heading for heading in under if not asks(heading.title)), False


def _lines(headings: Iterable[Heading]) -> str:
    return "".join(f"{heading.line}\n\n" for heading in headings)
