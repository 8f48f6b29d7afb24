"""PDF files, cut at their headings. A heading that asks is a question. Without headings, one text per page."""

import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from mmap import ACCESS_READ, mmap
from pathlib import Path

import pdfplumber
from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect
from pdfplumber.page import Page
from pdfplumber.utils.exceptions import PdfminerException

from llmops.data.collect.readers.decode import too_large
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.pdf_edges import body_size, without_edges
from llmops.data.collect.readers.pages.pdf_layout import Line, Row, lines, rows, text
from llmops.data.collect.readers.pages.pdf_notes import with_notes
from llmops.data.collect.readers.pages.pdf_text import joined, with_notes_below
from llmops.data.collect.readers.pages.sections import TERM, PageSection, documents
from llmops.data.text.headings import depth, ends_as_question, numbers
from llmops.frame.records import Dropped

HEADING_CHARS = 120  #: a longer line is text, whatever its font
HEADING_LINES = 4  #: most lines of a heading whose first line ends like text
CHUNK = 1 << 20  #: bytes inflated at a time
LARGEST_STREAM = 1 << 26  #: most bytes of an inflated stream
DEEPEST = 9  #: depth of a question without number among numbered headings
LARGER = 1.1  #: a line with a font larger than the body's by this factor is a heading

# Titles that programs write by default.
_NO_TITLE = re.compile(
    r"^(?:untitled|unspecified|\(?anonymous\)?|microsoft \w+ -.*)$|\.(?:docx?|odt|indd|pages|pdf|tex|rtf|html?)$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(?:(?:section|chapter|article|part|§)\s*\d{1,2}|\d{1,2}[.):]|\d{1,2}(?:\.\d{1,2})+)[.):]?\s+[A-Z].*"
)
_NO_CHARACTER = re.compile(r"\(cid:\d+\)|[\ue000-\uf8ff\ufffd]")  # a glyph's number or private code
_STREAM = re.compile(rb"stream\r?\n(?=[\x08-\x78])")


@dataclass(slots=True)
class PdfSection:
    """A heading and the lines below it; the heading is empty for the lines before the first."""

    page: int
    heading: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per section with text (see `sections.documents`), or one per page if there are no headings.

    Headings are short lines in a larger or bolder font. If all text has one font, they are numbered lines and
    questions. Running heads and feet are removed (`pdf_edges`). Footnotes are in brackets at the end of the section or
    page that refers to them.
    """
    _check_streams(path)
    pages: dict[int, list[Row]] = {}
    title = ""
    for page, found in _pages(path, origin):
        if isinstance(found, Dropped):
            yield found
        elif isinstance(found, str):
            title = found
        else:
            pages[page] = found
    bare = without_edges([*pages.values()])
    noted = with_notes(bare, body_size(bare))
    whole = [line for page, found in zip(pages, noted, strict=True) for line in lines(found, page)]
    headings = _headings(whole)
    if not headings:
        for page, text_lines in groupby(whole, lambda line: line.page):
            yield origin.document(f"page {page}", text=with_notes_below([*text_lines]))
        return
    yield from documents(_page_sections(_sections(whole, headings)), origin, title)


def _check_streams(path: Path) -> None:
    """Inflate every stream of the file except images, in pieces. The parser would hold a whole one in memory."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for match in _STREAM.finditer(data):
            if b"/Image" in data[max(0, match.start() - 500) : match.start()].rpartition(b"obj")[2]:
                continue
            inflater, size, at = zlib.decompressobj(), 0, match.end()
            with suppress(zlib.error):  # not a zlib stream, or a damaged one, which the parser will report
                while not inflater.eof and (part := inflater.unconsumed_tail or data[at : at + CHUNK]):
                    at += 0 if inflater.unconsumed_tail else CHUNK
                    size += len(inflater.decompress(part, CHUNK))
                    if size > LARGEST_STREAM:
                        raise too_large(LARGEST_STREAM, "bytes in one stream", "save it anew, or split it")


def _pages(path: Path, origin: Origin) -> Iterator[tuple[int, list[Row] | str | Dropped]]:
    """Yield the file's title, if any, then each page's number and its rows or why there are none."""
    # A damaged file makes the parser raise nearly anything (its own errors, KeyError, RecursionError, zlib.error). Each
    # means that this file or page is unreadable, and the quarantined row says so.
    with path.open("rb") as file:
        try:
            with pdfplumber.open(file) as pdf:
                count = len(pdf.pages)
                title = str(pdf.metadata.get("Title") or "").strip()
                if title and not _NO_TITLE.search(title):
                    yield 0, title
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


def _headings(lines: list[Line]) -> set[int]:
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    short = {i for i, line in enumerate(lines) if len(line.text) <= HEADING_CHARS and line.text[-1] not in ".,;"}
    set_apart = {i for i in short if lines[i].size >= body * LARGER}
    set_apart |= {i for i in short if lines[i].bold and lines[i].size >= body}
    set_apart |= {i for end in set_apart for i in _heading_start(lines, end)}
    if any(i + 1 < len(lines) and i + 1 not in set_apart for i in set_apart - {0}):
        return set_apart
    ends = {i for i, line in enumerate(lines) if i == 0 or lines[i - 1].text[-1] in ".!?:"} | {i + 1 for i in set_apart}
    asks = {i for i in short & ends if lines[i].text.endswith("?") and lines[i].text[0].isupper()}
    return {i for i in short if _NUMBERED.fullmatch(lines[i].text)} | asks | (set_apart if asks else set())


def _heading_start(lines: Sequence[Line], end: int) -> range:
    """Return the lines before `end` that belong to its heading: of the same font, from a number on."""
    for i in range(end - 1, max(end - HEADING_LINES, -1), -1):
        alike = (lines[i].size, lines[i].bold) == (lines[end].size, lines[end].bold)
        if not alike or len(lines[i].text) > HEADING_CHARS:
            break
        if _NUMBERED.fullmatch(lines[i].text):
            return range(i, end)
    return range(0)


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
    return sections


def _order(heading: Sequence[Line], shown: str, counted: Collection[str]) -> tuple[float, ...]:
    """Return the rank of a heading: by font, and within a font titles, then numbers by depth, then questions."""
    if not heading:
        return ()
    number = depth(shown, counted) or (DEEPEST if ends_as_question(shown) else 0)
    return heading[0].size, float(heading[0].bold), float(-number)


def _page_sections(sections: list[PdfSection]) -> Iterator[PageSection]:
    shown = [joined(section.heading) for section in sections]
    counted = numbers(shown)
    orders = [_order(section.heading, heading, counted) for section, heading in zip(sections, shown, strict=True)]
    ranks = sorted({order for order in orders if order}, reverse=True)
    number = 0
    for section, heading, order in zip(sections, shown, orders, strict=True):
        number += bool(section.lines)
        level = min(ranks.index(order) + 1, TERM - 1) if order else 0
        position = f"page {section.page}, section {max(number, 1)}"
        yield PageSection(position, level, heading, with_notes_below(section.lines, section.heading))
