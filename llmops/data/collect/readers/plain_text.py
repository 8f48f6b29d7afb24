"""Plain text, cut at blank lines into parts of a useful length."""

from collections.abc import Iterable
from pathlib import Path

from llmops.data.collect.readers.decoding import LARGEST_RECORD, open_text, read_lines
from llmops.data.collect.readers.origin import Items, Origin, trim_text
from llmops.data.text.headings import is_question
from llmops.data.text.questions import Heading, split_blocks

PART_CHARS = 8000  #: characters from which a part ends at the next blank line; at twice as many, at any line


def read(path: Path, origin: Origin) -> Items:
    """Yield the file as one document, or in parts if it is long. Only one part is held in memory.

    A part ends before its last question, if it has one, so that question and answer stay together. It begins with the
    numbered headings above it.

    Raises:
        UnreadableError: if the file is not text or is cut off. The parts before were yielded.
    """
    above = ""  # headings above the part
    part, first_line, is_empty = "", 1, True
    is_question = False  # the part is one question, whose answer may still follow
    with open_text(path, origin) as (file, origin):
        for number, line in enumerate(read_lines(file), start=1):
            if len(line) > LARGEST_RECORD:
                yield origin.make_dropped(
                    f"line {number}", "malformed", f"longer than {LARGEST_RECORD:,} characters", line
                )
                is_empty = False
                continue
            is_blank = not line.strip()
            if len(part) >= PART_CHARS and ((is_blank and not is_question) or len(part) >= 2 * PART_CHARS):
                end, headings, is_question = _find_cut(above, part, len(part) >= 2 * PART_CHARS)
                if end:
                    yield origin.make_document(f"line {first_line}", text=trim_text(above + part[:end]))
                    first_line += part.count("\n", 0, end)
                    above, part, is_question = headings, part[end:], False
            if part or not is_blank:
                first_line, is_empty = first_line if part else number, False
                part += line
    if part:
        yield origin.make_document(f"line {first_line}", text=trim_text(above + part))
    if is_empty:
        yield origin.make_dropped("file", "empty", "the file is empty")


def _find_cut(above: str, part: str, is_too_long: bool) -> tuple[int, str, bool]:
    """Return the offset of the cut, the headings above the rest, and True to wait because the part is one question."""
    part_blocks = [block for block in split_blocks(above + part) if block.start >= len(above)]
    last_question = max((i for i, block in enumerate(part_blocks) if block.question), default=-1)
    if any(not block.heading.level for block in part_blocks[: max(last_question, 0)]):
        return (
            part_blocks[last_question].start - len(above),
            _format_headings(part_blocks[last_question].outer_headings),
            False,
        )
    if last_question >= 0 and not is_too_long:
        return 0, "", True
    last_block = part_blocks[-1]
    headings = (
        [*last_block.outer_headings, last_block.heading] if last_block.heading.level else last_block.outer_headings
    )
    return len(part), _format_headings(heading for heading in headings if not is_question(heading.title)), False


def _format_headings(headings: Iterable[Heading]) -> str:
    return "".join(f"{heading.line}\n\n" for heading in headings)
