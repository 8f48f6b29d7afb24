"""Plain text, cut at blank lines into parts of a useful length."""

from collections.abc import Iterable
from pathlib import Path

from llmops.data.collect.readers.decode import LARGEST, lines, open_text
from llmops.data.collect.readers.origin import Items, Origin, trimmed
from llmops.data.text.headings import asks
from llmops.data.text.questions import Heading, blocks

PART = 8000  #: characters from which a part ends at the next blank line; at twice as many, at any line


def read(path: Path, origin: Origin) -> Items:
    """Yield the file as one document, or in parts if it is long. Only one part is held in memory.

    A part ends before its last question, if it has one, so that question and answer stay together. It begins with the
    numbered headings above it.

    Raises:
        Unreadable: if the file is not text or is cut off. The parts before were yielded.
    """
    above = ""  # headings above the part
    part, begins, empty = "", 1, True
    asked = False  # the part is one question, whose answer may still follow
    with open_text(path, origin) as (file, origin):
        for number, line in enumerate(lines(file), start=1):
            if len(line) > LARGEST:
                yield origin.dropped(f"line {number}", "malformed", f"longer than {LARGEST:,} characters", line)
                empty = False
                continue
            blank = not line.strip()
            if len(part) >= PART and ((blank and not asked) or len(part) >= 2 * PART):
                end, headings, asked = _cut(above, part, len(part) >= 2 * PART)
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


def _cut(above: str, part: str, late: bool) -> tuple[int, str, bool]:
    """Return where to cut a part, the headings above the rest, and True to wait because the part is one question."""
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
