"""PDF files: a heading is the question, what stands under it the answer; without headings, text per page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pypdf import PageObject, PdfReader

from llmops.data.readers.origin import Items, Origin, slug
from llmops.records import Dropped

HEADING_CHARS = 120  #: a longer line is text, however it looks
LARGER = 1.1  #: a line whose font is this much larger than that of most text is a heading

_NUMBER = re.compile(r"(?:(?:section|chapter|article|part|§)\s*)?\d{1,2}(?:\.\d{1,2})*[.):]?\s+(?=\S)", re.IGNORECASE)
_NUMBERED = re.compile(
    r"(?:(?:section|chapter|article|part|§)\s*\d{1,2}|\d{1,2}[.):]|\d{1,2}(?:\.\d{1,2})+)[.):]?\s+[A-Z].*"
)
_PAGE_NUMBER = re.compile(r"(?:page\s*)?[-–]?\s*\d{1,4}\s*(?:(?:/|of)\s*\d{1,4})?\s*[-–]?", re.IGNORECASE)
_BULLET = re.compile(r"[•‣▪◦*–-]\s")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page and how it is set."""

    text: str
    page: int
    size: float  #: font size in points
    bold: bool


@dataclass(slots=True)
class Section:
    """A heading and the lines under it; the heading is empty for what stands before the first."""

    page: int
    heading: list[Line] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per section with text, or per page if the file has no headings.

    Headings are short lines in a larger or bolder font; where all text is set alike, numbered lines and lines that ask
    something. Lines that repeat at the edge of most pages, and page numbers, are left out.
    """
    pages: list[list[Line]] = []
    for page, lines in _pages(path, origin):
        if isinstance(lines, Dropped):
            yield lines
        elif lines:
            pages.append(lines)
        else:
            yield origin.dropped(f"page {page}", "empty", "no text on this page; a scan needs OCR first")
    lines = [line for page in _without_edges(pages) for line in page]
    headings = _headings(lines)
    if not headings:
        for number in sorted({line.page for line in lines}):
            yield origin.document(f"page {number}", text=_joined([line for line in lines if line.page == number]))
        return
    for number, section in enumerate(_sections(lines, headings), start=1):
        position = f"page {section.page}, section {number}"
        title, body = _joined(section.heading), _joined(section.lines)
        if title:
            question = _NUMBER.sub("", title, count=1)
            yield origin.document(position, question=question, answer=body, group=slug(question))
        else:
            yield origin.document(position, text=body)


def _pages(path: Path, origin: Origin) -> Iterable[tuple[int, list[Line] | Dropped]]:
    # A damaged file makes pypdf raise nearly anything (its own errors, KeyError, RecursionError, zlib.error): whatever
    # it is, it means that this file or page cannot be read, and the quarantined row says so.
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            yield 1, origin.dropped("file", "unreadable", "it is encrypted; save it without a password")
            return
        count = len(reader.pages)
    except OSError:
        raise
    except Exception as error:
        yield 1, origin.dropped("file", "unreadable", f"no readable PDF: {type(error).__name__}: {error}")
        return
    for number in range(1, count + 1):
        try:
            lines: list[Line] | Dropped = _lines(reader.pages[number - 1], number)
        except Exception as error:
            lines = origin.dropped(f"page {number}", "unreadable", f"{type(error).__name__}: {error}")
        yield number, lines


def _lines(page: PageObject, number: int) -> list[Line]:
    parts: list[tuple[str, float, bool]] = []

    def visit(text: str, cm: list[float], tm: list[float], font: dict[str, Any] | None, size: float) -> None:
        scale = abs(tm[3] or tm[0]) * abs(cm[3] or cm[0])
        parts.append((text, round(size * scale, 1), "bold" in str((font or {}).get("/BaseFont", "")).lower()))

    page.extract_text(visitor_text=visit)
    lines: list[Line] = []
    current: list[tuple[str, float, bool]] = []
    for text, size, bold in [*parts, ("\n", 0.0, False)]:
        for index, piece in enumerate(text.split("\n")):
            if index and (whole := " ".join("".join(t for t, _, _ in current).split())):
                set_in = [(s, b) for t, s, b in current if t.strip()]
                lines.append(Line(whole, number, max(s for s, _ in set_in), all(b for _, b in set_in)))
            if index:
                current = []
            current.append((piece, size, bold))
    return lines


def _without_edges(pages: list[list[Line]]) -> list[list[Line]]:
    """The pages without page numbers and without what repeats among the first and last two lines of most pages."""

    def shape(line: Line) -> str:
        return re.sub(r"\d+", "#", line.text)

    def edge(page: list[Line]) -> set[int]:
        return {i for i in range(len(page)) if i < 2 or i >= len(page) - 2}

    seen = Counter(s for page in pages for s in {shape(page[i]) for i in edge(page)})
    repeated = {s for s, n in seen.items() if n > 1 and n > len(pages) / 2}
    return [
        [
            line
            for i, line in enumerate(page)
            if not _PAGE_NUMBER.fullmatch(line.text) and not (i in edge(page) and shape(line) in repeated)
        ]
        for page in pages
    ]


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


def _sections(lines: list[Line], headings: set[int]) -> list[Section]:
    sections = [Section(lines[0].page)]
    for i, line in enumerate(lines):
        if i not in headings:
            sections[-1].lines.append(line)
            continue
        last = sections[-1]
        wrapped = last.heading and not last.lines and line.size == last.heading[-1].size
        if wrapped and not _NUMBERED.fullmatch(line.text):
            last.heading.append(line)
        else:
            sections.append(Section(line.page, [line]))
    return [section for section in sections if section.lines]


def _joined(lines: list[Line]) -> str:
    text = ""
    for line in lines:
        text += ("\n" if _BULLET.match(line.text) else " ") * bool(text) + line.text
    return text
