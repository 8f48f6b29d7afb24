"""Find the questions and answers that a plain text lists (FAQ), by its layout."""

import re
import textwrap
from dataclasses import dataclass, field

from llmops.data.text.headings import join_headings
from llmops.data.text.questions import MarkPatterns, find_marks, split_blocks

# "A. Smith": an initial, not the mark of an answer, unless the question has a mark, too.
_INITIAL = re.compile(r"\w\.\s*")
_INDENT = re.compile(r"^[^\S\n]+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Question:
    """A question in a text."""

    question: str
    marked: bool  #: it has a mark before it, as in `Q: …`
    level: int  #: depth of its section's number; 0 without one
    context: str  #: the path of numbered headings above it
    answer: list[str] = field(default_factory=list)  #: paragraphs


def find_qa_pairs(text: str) -> list[tuple[str, str, str]]:
    """Return the questions of `text`, each with its answer and the path of the numbered headings above it.

    `llmops.data.text.questions` decides which blocks are questions. The answer is the text up to the next question, or
    up to a numbered heading that is not below the question. A question without an answer is left out, and so is the
    text before the first question.
    """
    found: list[_Question] = []
    answering = False
    for block in split_blocks(text):
        level = block.heading.level
        if block.question:
            context = join_headings(heading.title for heading in block.outer_headings)
            found.append(_Question(block.question, block.marked, level, context, [block.rest] if block.rest else []))
            answering = True
        elif level and not (answering and 0 < found[-1].level < level):
            answering = False
        elif answering and block.text.strip():
            # A sub-heading is part of the answer: indent it like the answer, so that dedent treats both alike.
            indent = _INDENT.match(found[-1].answer[-1]) if level and found[-1].answer else None
            found[-1].answer.append(f"{indent[0]}{block.text}" if indent else block.text)
    marks = find_marks(text)
    return [(one.question, _join_answer(one, marks), one.context) for one in found if one.answer]


def _join_answer(question: _Question, marks: MarkPatterns) -> str:
    """Return the paragraphs of an answer as one text, without its mark such as `A: `."""
    text = _INDENT.sub(lambda match: " " * len(match[0].expandtabs(4)), "\n\n".join(question.answer))
    text = textwrap.dedent(text).strip("\n").rstrip()
    unindented = text.lstrip()
    mark = marks.answer.match(unindented)
    if not mark or (not question.marked and _INITIAL.fullmatch(mark[0])):
        return text
    return unindented[mark.end() :]
