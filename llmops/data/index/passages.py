"""Passages of a document: cut where its headings and paragraphs end, and else where a sentence does.

Each stands under the path of its headings. What a document asks is the last of them: so a question helps to find its
answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from llmops.data.text.headings import BETWEEN, is_path, path
from llmops.data.text.questions import blocks
from llmops.data.text.sentences import spans, within
from llmops.data.text.words import words_of
from llmops.records import Document, Passage, content_id

SHORT = 15  #: words; what has fewer, as a lone heading has, is joined with what follows it, or else precedes it
WORD_CHARS = 10  #: most characters of a word: what has none, as code or a long number, is counted by these
_AHEAD = 200  #: characters behind a cut that are looked at

_LINE = re.compile(r"\S[^\n]*")


class _Piece(NamedTuple):
    """What is not cut any more: `text[start:end]`."""

    start: int
    end: int
    size: int  #: in words
    above: tuple[str, ...]  #: the numbered headings that it stands under, its own included
    heading: bool


def passages(document: Document, most: int) -> list[Passage]:
    """The passages of a document, in their order; none if it has nothing but a question.

    Args:
        document: as cleaning leaves it, without what must not be found.
        most: words of a passage; a heading that stands over it, or a very short rest, may be more.
    """
    headed = is_path(document.context)
    asked = document.question if document.answer else ""
    outer = [document.context if headed else "", asked]
    parts = [] if headed else [document.context]
    text = "\n\n".join([*parts, document.answer] if asked else [*parts, document.text] if document.text else [])
    seen = Counter[tuple[str, str]]()
    found = []
    for above, part in _cut(text, most):
        headings = path([*outer, *above])
        seen[headings, part] += 1
        found.append(
            Passage(
                id=content_id(document.id, headings, part, str(seen[headings, part])),
                document=document.id,
                source=document.source,
                location=document.location,
                position=document.position,
                title=(outer[0] or asked).split(BETWEEN)[0],
                headings=headings,
                text=part,
                licence=document.licence,
            )
        )
    return found


def size_of(text: str) -> int:
    """How many words a text has, or as many as its characters could be."""
    return max(len(words_of(text)), len(text) // WORD_CHARS)


def _cut(text: str, most: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """The parts of a text, each with the headings in it that most of the part stands under."""
    done: list[list[_Piece]] = [[]]
    size = 0
    for piece in _pieces(text, most):
        run = done[-1]
        leaves = bool(run) and piece.above != run[-1].above and not all(before.heading for before in run)
        if size >= SHORT and (leaves or size + piece.size > most):
            done.append([])
            size = 0
        done[-1].append(piece)
        size += piece.size
    if len(done) > 1 and size < SHORT:
        done[-2:] = [done[-2] + done[-1]]
    for run in filter(None, done):
        yield max(run, key=lambda piece: piece.size).above, text[run[0].start : run[-1].end].strip()


def _pieces(text: str, most: int) -> Iterator[_Piece]:
    for block in blocks(text):
        if not block.text.strip():
            continue
        level = bool(block.heading.level)
        above = tuple(heading.title for heading in (*block.above, *([block.heading] if level else ())))
        whole = size_of(block.text)
        for start, end in [(0, len(block.text))] if whole <= most else _smaller(block.text, most):
            size = size_of(block.text[start:end])
            yield _Piece(block.start + start, block.start + end, size, above, level)


def _smaller(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Where the sentences of a long paragraph are; of what is longer, as code and tables are, the lines."""
    for start, end in spans(text):
        if size_of(text[start:end]) <= most:
            yield start, end
            continue
        for line in _LINE.finditer(text, start, end):
            size = size_of(line[0])
            yield from [line.span()] if size <= most else _chunks(text, *line.span(), len(line[0]) * most // size)


def _chunks(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """The same of a line that is too long, in chunks of so many characters, which end where words do if they can."""
    while start < end:
        ahead = text[start : min(end, start + most + _AHEAD)]
        stop = start + len(within(ahead, most) or ahead[:most])
        yield start, stop
        following = _LINE.search(text, stop, end)
        start = following.start() if following else end
