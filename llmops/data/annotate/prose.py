"""Find questions and answers in plain text by its layout."""

import re
import textwrap
from dataclasses import dataclass, field

from llmops.data.text.headings import path
from llmops.data.text.questions import Marks, blocks, marks_of

_INITIAL = re.compile(r"\w\.\s*")  # "A. Smith"
_INDENT = re.compile(r"^[^\S\n]+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in a text."""

    question: str
    marked: bool  #: as in `Q: …`
    depth: int  #: of its section's number; 0 without one
    context: str  #: the path of numbered headings above it
    answer: list[str] = field(default_factory=list)  #: paragraphs


def qa_pairs(text: str) -> list[tuple[str, str, str]]:
    """Return the questions of `text`, each with its answer and the path of the numbered headings above it.

    `text.questions` decides which blocks are questions. The answer is the text up to the next question, or up to a
    numbered heading that is not below the question. A question without an answer is left out, and so is the text
    before the first question.
    """
    found: list[Asked] = []
    answering = False
    for block in blocks(text):
        level = block.heading.level
        if block.question:
            context = path(heading.title for heading in block.above)
            found.append(Asked(block.question, block.marked, level, context, [block.rest] if block.rest else []))
            answering = True
        elif level and not (answering and 0 < found[-1].depth < level):
            answering = False
        elif answering and block.text.strip():
            before = _INDENT.match(found[-1].answer[-1]) if level and found[-1].answer else None
            found[-1].answer.append(f"{before[0]}{block.text}" if before else block.text)
    marks = marks_of(text)
    return [(asked.question, _answer(asked, marks), asked.context) for asked in found if asked.answer]


def _answer(asked: Asked, marks: Marks) -> str:
    text = _INDENT.sub(lambda match: " " * len(match[0].expandtabs(4)), "\n\n".join(asked.answer))
    text = textwrap.dedent(text).strip("\n").rstrip()
    said = text.lstrip()
    mark = marks.answer.match(said)
    if not mark or (not asked.marked and _INITIAL.fullmatch(mark[0])):
        return text
    return said[mark.end() :]
