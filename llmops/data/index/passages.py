"""Splitting of a document into passages, at headings and paragraphs, and inside long paragraphs at sentences.

A passage has the path of its headings. If the document asks a question, the question is the last heading, so that it
helps to find its answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from llmops.data.text.headings import PATH_SEPARATOR, find_table_header, is_heading_path, join_headings
from llmops.data.text.questions import split_blocks
from llmops.data.text.sentences import find_sentence_spans, truncate_text
from llmops.data.text.words import split_words
from llmops.frame.records import Document, Passage, make_content_id

MIN_WORDS = 15  #: a passage with fewer, such as a lone heading, is joined with the next one, or else the previous one
MAX_WORD_CHARS = 10  #: characters that count as one word at most, so that code and long numbers count by length

_LINE = re.compile(r"\S[^\n]*")


class _Piece(NamedTuple):
    """A part of a text that is not split further: `text[start:end]`."""

    start: int
    end: int
    size: int  #: in words
    headings: tuple[str, ...]  #: the numbered headings over it; a heading includes itself
    is_heading: bool


def split_document(document: Document, max_words: int) -> list[Passage]:
    """Return the passages of a document, in their order; empty if it has only a question.

    Args:
        document: cleaned and redacted.
        max_words: words of a passage; its heading or a very short rest may be added.
    """
    has_path = is_heading_path(document.context)
    question = document.question if document.answer else ""
    outer = [document.context if has_path else "", question]
    text = "\n\n".join(filter(None, ["" if has_path else document.context, document.answer or document.text]))
    if not (document.answer or document.text):
        return []
    repetitions = Counter[tuple[str, str]]()
    split = []
    for number, (above, part) in enumerate(_split_text(text, max_words), 1):
        headings = join_headings([*outer, *above])
        repetitions[headings, part] += 1
        split.append(
            Passage(
                id=make_content_id(document.id, headings, part, str(repetitions[headings, part])),
                document=document.id,
                source=document.source,
                location=document.location,
                position=document.position,
                title=(outer[0] or question).split(PATH_SEPARATOR)[0],
                headings=headings,
                text=part,
                licence=document.licence,
                part=str(number),
            )
        )
    return split


def count_words(text: str) -> int:
    """Return the number of words of a text, but at least one per `MAX_WORD_CHARS` characters."""
    return max(len(split_words(text)), len(text) // MAX_WORD_CHARS)


def _split_text(text: str, max_words: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the parts of a text, each with the numbered headings over its largest piece.

    A part that begins inside a table gets the table's header.
    """
    runs: list[list[_Piece]] = [[]]
    size = 0
    for piece in _split_blocks(text, max_words):
        run = runs[-1]
        other_heading = (
            bool(run) and piece.headings != run[-1].headings and not all(member.is_heading for member in run)
        )
        if size >= MIN_WORDS and (other_heading or size + piece.size > max_words):
            runs.append([])
            size = 0
        runs[-1].append(piece)
        size += piece.size
    if len(runs) > 1 and size < MIN_WORDS:
        runs[-2:] = [runs[-2] + runs[-1]]
    header = ""
    for run in filter(None, runs):
        part = text[run[0].start : run[-1].end].strip()
        if header and part.startswith("|"):
            part = f"{header}\n{part}"
        header = find_table_header(part)
        yield max(run, key=lambda piece: piece.size).headings, part


def _split_blocks(text: str, max_words: int) -> Iterator[_Piece]:
    """Yield the paragraphs of a text; a paragraph that is too long is yielded in parts."""
    for block in split_blocks(text):
        if not block.text.strip():
            continue
        is_heading = bool(block.heading.level)
        above = tuple(heading.title for heading in (*block.outer_headings, *([block.heading] if is_heading else ())))
        fits = count_words(block.text) <= max_words
        for start, end in [(0, len(block.text))] if fits else _split_block(block.text, max_words):
            size = count_words(block.text[start:end])
            yield _Piece(block.start + start, block.start + end, size, above, is_heading)


def _split_block(text: str, max_words: int) -> Iterator[tuple[int, int]]:
    """Yield the positions of a text's sentences. Too long ones, such as code and tables, are split at line ends."""
    for start, end in find_sentence_spans(text):
        if count_words(text[start:end]) <= max_words:
            yield start, end
            continue
        for line in _LINE.finditer(text, start, end):
            size = count_words(line[0])
            yield from (
                [line.span()]
                if size <= max_words
                else _split_line(text, *line.span(), len(line[0]) * max_words // size)
            )


def _split_line(text: str, start: int, end: int, max_chars: int) -> Iterator[tuple[int, int]]:
    """Yield the positions of parts of a line, at most `max_chars` long. They end at a word's end if possible."""
    while start < end:
        rest = text[start:end]
        stop = start + len(truncate_text(rest, max_chars) or rest[:max_chars])
        yield start, stop
        following = _LINE.search(text, stop, end)
        start = following.start() if following else end
