"""Questions and their answers in plain text: those that stand in it, where nothing but its layout tells them apart, and
those that are made of what asks nothing."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from llmops.data.text.headings import BETWEEN, is_path, path
from llmops.data.text.questions import Marks, blocks, marks_of
from llmops.data.text.sentences import sentences
from llmops.data.text.words import words_of
from llmops.records import Document

SENTENCES = 2  #: of an answer to a question that is made
LEAST, LONGEST = 6, 12  #: words of a sentence that says something; of a heading that is a question

_ENDS = re.compile(r"[.!?。।؟۔።։]['\"”’)\]]*$")
_DEFINES = re.compile(
    r"(?P<the>(?:An?|The) )?(?P<term>[\w'’+-]+(?: [\w'’+-]+){0,4}?) (?P<verb>is|are) "
    r"(?:an?|the|one|used|designed|made|meant|intended|how|what|where|when|responsible)\b"
)
#: What begins no term: it points to what stands elsewhere, or begins a clause.
_BEFORE = """
this that these those it its they he she we you i there here note which what who where when while if as in on at for to
by with from after before since because although however also both each every some all most many another following above
below one other your our their his her my not only and or but so
"""
_POINTS = frozenset(_BEFORE.split())

_INITIAL = re.compile(r"\w\.\s*")  # "A. Smith"
_INDENT = re.compile(r"^[^\S\n]+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that stands in a text."""

    question: str
    marked: bool  #: as in `Q: …`
    depth: int  #: of its section's number; 0 without one
    context: str  #: the path of numbered headings above it
    answer: list[str] = field(default_factory=list)  #: paragraphs


def qa_pairs(text: str) -> list[tuple[str, str, str]]:
    """The questions of `text`, what answers each, and the path of numbered headings that it stands under.

    What a question is, `text.questions` says. Its answer is all that follows until the next question, or until a
    numbered heading that is not under it. A question that nothing follows is left out, as is what comes before the
    first.
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


def made_pairs(document: Document) -> Iterator[tuple[str, str]]:
    """Questions that are made of the sections of a document that asks none, and what answers each.

    Of a section, one at most: what it defines first ("A vault is …" → "What is a vault?", in English), else its
    heading, as it is typed into a search box. The answer is how the section begins.
    """
    if document.question or document.answer or not document.text:
        return
    for headings, body in _sections(document):
        said = list(takewhile(_ENDS.search, sentences(body)[:SENTENCES]))
        says = said and len(words_of(said[0])) >= LEAST
        if says and (question := _defined(said[0]) or _heading(headings)):
            yield question, " ".join(said)


def _sections(document: Document) -> Iterator[tuple[tuple[str, ...], str]]:
    """The sections of a document with the headings that each stands under, the outermost first."""
    outer = tuple(part for part in document.context.split(BETWEEN) if part) if is_path(document.context) else ()
    above, body = outer, list[str]()
    for block in blocks(document.text):
        titles = tuple(heading.title for heading in block.above)
        if block.heading.level:
            yield above, "\n\n".join(body)
            above, body = (*outer, *titles, block.heading.title), []
        elif block.text.strip():
            body.append(block.text.strip())
    yield above, "\n\n".join(body)


def _defined(sentence: str) -> str:
    """What asks for what a sentence defines; empty if it defines nothing."""
    found = _DEFINES.match(sentence)
    if not found or found["term"].split()[0].lower() in _POINTS:
        return ""
    return f"What {found['verb']} {(found['the'] or '').lower()}{found['term']}?"


def _heading(headings: Sequence[str]) -> str:
    """A section's heading as it is searched for, with the one above it where it is a word or two; empty if there is
    none, or it is too long."""
    if not headings:
        return ""
    words = headings[-1].split()
    asked = path(headings[-2:]).replace(BETWEEN, ": ") if len(words) <= 2 else headings[-1]
    return asked if len(asked.split()) <= LONGEST and words_of(asked) else ""
