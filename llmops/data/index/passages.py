"""Passages of a document: cut where its headings and paragraphs end, and in long paragraphs where a sentence does.

A passage stands under the path of its headings. If the document asks a question, the question is the last heading, so
that it helps to find its answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from llmops.data.text.headings import BETWEEN, is_path, path, table_header
from llmops.data.text.questions import blocks
from llmops.data.text.sentences import spans, within
from llmops.data.text.words import words_of
from llmops.frame.records import Document, Passage, content_id

SHORT = 15  #: words; a passage with fewer, such as a lone heading, is joined with the next one, or else the one before
WORD_CHARS = 10  #: most characters of a word; code and long numbers are counted by their characters

_LINE = re.compile(r"\S[^\n]*")


class _Piece(NamedTuple):
    """A part of a text that is not cut any more: `text[start:end]`."""

    start: int
    end: int
    size: int  #: in words
    above: tuple[str, ...]  #: the numbered headings over it, itself included if it is one
    is_heading: bool


def passages(document: Document, most: int) -> list[Passage]:
    """Return the passages of a document, in their order; none if it has nothing but a question.

    Args:
        document: cleaned and redacted.
        most: words of a passage; a heading over it or a very short rest may be added.
    """
    has_path = is_path(document.context)
    question = document.question if document.answer else ""
    outer = [document.context if has_path else "", question]
    text = "\n\n".join(filter(None, ["" if has_path else document.context, document.answer or document.text]))
    if not (document.answer or document.text):
        return []
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
                title=(outer[0] or question).split(BETWEEN)[0],
                headings=headings,
                text=part,
                licence=document.licence,
            )
        )
    return found


def size_of(text: str) -> int:
    """Return how many words a text has, or as many as its characters could be."""
    return max(len(words_of(text)), len(text) // WORD_CHARS)


def _cut(text: str, most: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the parts of a text, each with the numbered headings over the largest piece of it.

    A part that begins in a table has the table's header.
    """
    runs: list[list[_Piece]] = [[]]
    size = 0
    for piece in _pieces(text, most):
        run = runs[-1]
        other_heading = bool(run) and piece.above != run[-1].above and not all(one.is_heading for one in run)
        if size >= SHORT and (other_heading or size + piece.size > most):
            runs.append([])
            size = 0
        runs[-1].append(piece)
        size += piece.size
    if len(runs) > 1 and size < SHORT:
        runs[-2:] = [runs[-2] + runs[-1]]
    header = ""
    for run in filter(None, runs):
        part = text[run[0].start : run[-1].end].strip()
        if header and part.startswith("|"):
            part = f"{header}\n{part}"
        header = table_header(part)
        yield max(run, key=lambda piece: piece.size).above, part


def _pieces(text: str, most: int) -> Iterator[_Piece]:
    """Yield paragraphs, and the parts of those that are too long."""
    for block in blocks(text):
        if not block.text.strip():
            continue
        is_heading = bool(block.heading.level)
        above = tuple(heading.title for heading in (*block.above, *([block.heading] if is_heading else ())))
        whole = size_of(block.text) <= most
        for start, end in [(0, len(block.text))] if whole else _parts(block.text, most):
            size = size_of(block.text[start:end])
            yield _Piece(block.start + start, block.start + end, size, above, is_heading)


def _parts(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Yield where the sentences of a text are; in sentences that are too long, such as code and tables, the lines."""
    for start, end in spans(text):
        if size_of(text[start:end]) <= most:
            yield start, end
            continue
        for line in _LINE.finditer(text, start, end):
            size = size_of(line[0])
            yield from [line.span()] if size <= most else _chunks(text, *line.span(), len(line[0]) * most // size)


def _chunks(text: str, start: int, end: int, chars: int) -> Iterator[tuple[int, int]]:
    """Yield chunks of a line of at most `chars` characters; they end where words do, if they can."""
    while start < end:
        rest = text[start:end]
        stop = start + len(within(rest, chars) or rest[:chars])
        yield start, stop
        following = _LINE.search(text, stop, end)
        start = following.start() if following else end
