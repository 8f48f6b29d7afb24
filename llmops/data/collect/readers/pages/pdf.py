"""PDF files: a heading is the question, what stands under it the answer; without headings, text per page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pdfplumber
from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect
from pdfplumber.page import Page
from pdfplumber.utils.exceptions import PdfminerException

from llmops.data.collect.readers.origin import Items, Origin, slug
from llmops.data.collect.readers.pages.pdf_layout import Line, Row, lines, rows, text
from llmops.records import Dropped

HEADING_CHARS = 120  #: a longer line is text, however it looks
LARGER = 1.1  #: a line whose font is this much larger than that of most text is a heading

_NUMBER = re.compile(r"(?:(?:section|chapter|article|part|§)\s*)?\d{1,2}(?:\.\d{1,2})*[.):]?\s+(?=\S)", re.IGNORECASE)
_NUMBERED = re.compile(
    r"(?:(?:section|chapter|article|part|§)\s*\d{1,2}|\d{1,2}[.):]|\d{1,2}(?:\.\d{1,2})+)[.):]?\s+[A-Z].*"
)
_PAGE_NUMBER = re.compile(r"(?:page\s*)?[-–]?\s*\d{1,4}\s*(?:(?:/|of)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)
_CUT_WORD = re.compile(r"[^\W\d_]{2}[-\u00ad\u2010]$")  # a word that goes on in the next line
_NO_CHARACTER = re.compile(r"\(cid:\d+\)|[\ue000-\uf8ff\ufffd]")  # a glyph's number, or a private code for it
_BULLET = re.compile(r"[•‣▪◦*–-]\s")


@dataclass(slots=True)
class PdfSection:
    """A heading and the lines under it; the heading is empty for what stands before the first."""

    page: int
    heading: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per section with text, or per page if the file has no headings.

    Headings are short lines in a larger or bolder font; where all text is set alike, numbered lines and lines that ask
    something. Lines that repeat at the edge of most pages, and page numbers, are left out.
    """
    pages: dict[int, list[Row]] = {}
    for page, found in _pages(path, origin):
        if isinstance(found, Dropped):
            yield found
        else:
            pages[page] = found
    whole = [
        line for page, rows in zip(pages, _without_edges([*pages.values()]), strict=True) for line in lines(rows, page)
    ]
    headings = _headings(whole)
    if not headings:
        for page, text_lines in groupby(whole, lambda line: line.page):
            yield origin.document(f"page {page}", text=_joined([*text_lines]))
        return
    for number, section in enumerate(_sections(whole, headings), start=1):
        position = f"page {section.page}, section {number}"
        title, body = _joined(section.heading), _joined(section.lines)
        if title:
            question = _NUMBER.sub("", title, count=1)
            yield origin.document(position, question=question, answer=body, group=slug(question))
        else:
            yield origin.document(position, text=body)


def _pages(path: Path, origin: Origin) -> Iterator[tuple[int, list[Row] | Dropped]]:
    # A damaged file makes the parser raise nearly anything (its own errors, KeyError, RecursionError, zlib.error):
    # whatever it is, it means that this file or page cannot be read, and the quarantined row says so.
    with open(path, "rb") as file:
        try:
            with pdfplumber.open(file) as pdf:
                count = len(pdf.pages)
                for number, page in enumerate(pdf.pages, start=1):
                    yield number, _page(page, number, origin)
                    page.close()
        except Exception as error:
            cause = error.args[0] if isinstance(error, PdfminerException) and error.args else error
            if isinstance(cause, PDFEncryptionError | PDFPasswordIncorrect):
                yield 0, origin.dropped("file", "encrypted", "it needs a password; save it without one")
            else:
                yield 0, origin.dropped("file", "unreadable", f"no readable PDF: {type(cause).__name__}: {cause}")
            return
    if not count:
        yield 0, origin.dropped("file", "unreadable", "no readable PDF: it has no pages")


def _page(page: Page, number: int, origin: Origin) -> list[Row] | Dropped:
    """The rows of a page, or why there are none."""
    position = f"page {number}"
    try:
        found = rows(page)
        scanned = not found and bool(page.images)
    except Exception as error:
        return origin.dropped(position, "unreadable", f"{type(error).__name__}: {error}")
    if scanned:
        return origin.dropped(position, "scanned", "an image without text; run OCR on the file first")
    if not found:
        return origin.dropped(position, "empty", "no text on this page")
    words = "".join(map(text, found))
    if len(_NO_CHARACTER.sub("", words)) < len(words) / 2:
        detail = "its fonts do not tell which characters they show; run OCR on the file, or save it anew"
        return origin.dropped(position, "encoding", detail, words)
    return found


def _without_edges(pages: list[list[Row]]) -> list[list[Row]]:
    """The pages without what repeats among the first and last two rows of most pages, and page numbers there."""

    def shape(row: Row) -> str:
        return re.sub(r"\d+", "#", text(row))

    def edge(page: list[Row]) -> set[int]:
        return {i for i in range(len(page)) if i < 2 or i >= len(page) - 2}

    seen = Counter(s for page in pages for s in {shape(page[i]) for i in edge(page)})
    repeated = {s for s, n in seen.items() if n > 1 and n > len(pages) / 2}
    removed = [
        {i for i in edge(page) if shape(page[i]) in repeated or _PAGE_NUMBER.fullmatch(text(page[i]))} for page in pages
    ]
    return [[row for i, row in enumerate(page) if i not in gone] for page, gone in zip(pages, removed, strict=True)]


def _headings(lines: list[Line]) -> set[int]:
    """Indices of the lines that are headings."""
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    short = {i for i, line in enumerate(lines) if len(line.text) <= HEADING_CHARS and line.text[-1] not in ".,;"}
    set_apart = {i for i in short if lines[i].size >= body * LARGER}
    set_apart |= {i for i in short if lines[i].bold and lines[i].size >= body}
    if any(i + 1 < len(lines) and i + 1 not in set_apart for i in set_apart - {0}):
        return set_apart
    ends = {i for i, line in enumerate(lines) if i == 0 or lines[i - 1].text[-1] in ".!?:"} | {i + 1 for i in set_apart}
    asks = {i for i in short & ends if lines[i].text.endswith("?") and lines[i].text[0].isupper()}
    return {i for i in short if _NUMBERED.fullmatch(lines[i].text)} | asks | (set_apart if asks else set())


def _sections(lines: list[Line], headings: set[int]) -> list[PdfSection]:
    sections = [PdfSection(lines[0].page)]
    for i, line in enumerate(lines):
        if i not in headings:
            sections[-1].lines.append(line)
            continue
        last = sections[-1]
        wrapped = last.heading and not last.lines and line.size == last.heading[-1].size
        if wrapped and not _NUMBERED.fullmatch(line.text):
            last.heading.append(line)
        else:
            sections.append(PdfSection(line.page, [line]))
    return [section for section in sections if section.lines]


def _joined(lines: list[Line]) -> str:
    text = ""
    for line in lines:
        if _CUT_WORD.search(text) and line.text[0].islower():
            text = text[:-1] + line.text
        else:
            text += ("\n" if _BULLET.match(line.text) else " ") * bool(text) + line.text
    return text
