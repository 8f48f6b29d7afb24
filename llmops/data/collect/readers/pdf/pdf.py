"""PDF files, cut at their headings. A heading that asks is a question. Without headings, one text per page."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pypdfium2 import PdfDocument, PdfiumError, PdfPage
from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_PAGEOBJ_IMAGE

from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages.sections import TERM_LEVEL, PageSection, make_documents
from llmops.data.collect.readers.pdf import ocr
from llmops.data.collect.readers.pdf.pdf_edges import remove_edges
from llmops.data.collect.readers.pdf.pdf_layout import (
    HEADING_FACTOR,
    PdfLine,
    Row,
    build_lines,
    extract_rows,
    join_words,
)
from llmops.data.collect.readers.pdf.pdf_text import join_lines
from llmops.data.text.headings import compute_depth, find_section_numbers, has_final_question_mark
from llmops.frame.records import DroppedRow

HEADING_CHARS = 120  #: a longer line is text, whatever its font
HEADING_LINES = 4  #: most lines of a heading whose first line ends like text
QUESTION_DEPTH = 9  #: depth of a question without number among numbered headings

# Titles that programs write by default.
_DEFAULT_TITLE = re.compile(
    r"^(?:untitled|unspecified|\(?anonymous\)?|microsoft \w+ -.*)$|\.(?:docx?|odt|indd|pages|pdf|tex|rtf|html?)$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(?:(?:section|chapter|article|part|§)\s*\d{1,2}|\d{1,2}[.):]|\d{1,2}(?:\.\d{1,2})+)[.):]?\s+[A-Z].*"
)
_UNMAPPED_GLYPH = re.compile(r"[\ue000-\uf8ff\ufffd]")  # a private code, or none


@dataclass(slots=True)
class PdfSection:
    """A heading and the lines below it; the heading is empty for the lines before the first."""

    page: int
    heading: list[PdfLine] = field(default_factory=list)
    lines: list[PdfLine] = field(default_factory=list)


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per section with text (see `sections.make_documents`), or one per page if there are no headings.

    Headings are short lines in a larger or bolder font. If all text has one font, they are numbered lines and
    questions. Running heads and feet are removed (`pdf_edges`). Footnotes stay where they stand.
    """
    pages: dict[int, list[Row]] = {}
    title = ""
    for number, page in _read_pages(path, origin):
        if isinstance(page, DroppedRow):
            yield page
        elif isinstance(page, str):
            title = page
        else:
            pages[number] = page
    body_pages = remove_edges([*pages.values()])
    for number, page_rows in zip(pages, body_pages, strict=True):
        if not page_rows:
            yield origin.make_dropped(f"page {number}", "empty", "no text besides running head and foot")
    all_lines = [line for n, page_rows in zip(pages, body_pages, strict=True) for line in build_lines(page_rows, n)]
    headings = _find_headings(all_lines)
    if not headings:
        for number, text_lines in groupby(all_lines, lambda line: line.page):
            yield origin.make_document(f"page {number}", text=join_lines([*text_lines], keep_code=True))
        return
    yield from make_documents(_convert_sections(_split_sections(all_lines, headings)), origin, title)


def _read_pages(path: Path, origin: Origin) -> Iterator[tuple[int, list[Row] | str | DroppedRow]]:
    """Yield the file's title, if any, then each page's number with its rows, or with a quarantined row."""
    try:
        pdf = PdfDocument(path)
    except PdfiumError as error:
        if error.err_code == FPDF_ERR_PASSWORD:
            yield 0, origin.make_dropped("file", "encrypted", "it needs a password; save it without one")
        else:
            yield 0, origin.make_dropped("file", "unreadable", f"no readable PDF: {error}")
        return
    with pdf:
        title = pdf.get_metadata_value("Title").strip()
        if title and not _DEFAULT_TITLE.search(title):
            yield 0, title
        for number in range(1, len(pdf) + 1):
            yield number, _read_page(pdf, number, origin)
        if not len(pdf):
            yield 0, origin.make_dropped("file", "unreadable", "no readable PDF: it has no pages")


def _read_page(pdf: PdfDocument, number: int, origin: Origin) -> list[Row] | DroppedRow:
    position = f"page {number}"
    try:
        page = pdf[number - 1]
    except PdfiumError as error:
        return origin.make_dropped(position, "unreadable", str(error))
    page_rows = extract_rows(page)
    if not page_rows and any(page.get_objects([FPDF_PAGEOBJ_IMAGE])):
        return _read_scan(page, position, origin)
    if not page_rows:
        return origin.make_dropped(position, "empty", "no text on this page")
    words = "".join(map(join_words, page_rows))
    if len(_UNMAPPED_GLYPH.sub("", words)) < len(words) / 2:
        detail = "its fonts do not tell which characters they show; run OCR on the file, or save it anew"
        return origin.make_dropped(position, "encoding", detail, words)
    return page_rows


def _read_scan(page: PdfPage, position: str, origin: Origin) -> list[Row] | DroppedRow:
    if not ocr.is_installed():
        return origin.make_dropped(position, "scanned", "an image without text; install tesseract, which reads it")
    try:
        page_rows, confidence = ocr.recognize(page, origin.source.languages)
    except OSError as error:
        return origin.make_dropped(position, "unreadable", str(error))
    if not page_rows:
        return origin.make_dropped(position, "empty", "no text on this page")
    if confidence < ocr.MIN_CONFIDENCE:
        detail = f"tesseract is sure of {confidence:.0f} % only; scan it anew, or name its `languages`"
        return origin.make_dropped(position, "scanned", detail, "\n".join(map(join_words, page_rows)))
    return page_rows


def _find_headings(lines: list[PdfLine]) -> set[int]:
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0] if sizes else 0.0
    short_lines = {i for i, line in enumerate(lines) if len(line.text) <= HEADING_CHARS and line.text[-1] not in ".,;"}
    styled = {i for i in short_lines if lines[i].size >= body * HEADING_FACTOR}
    styled |= {i for i in short_lines if lines[i].bold and lines[i].size >= body}
    styled |= {i for end in styled for i in _find_heading_start(lines, end)}
    if any(i + 1 < len(lines) and i + 1 not in styled for i in styled - {0}):
        return styled
    after_ends = {i for i, line in enumerate(lines) if i == 0 or lines[i - 1].text[-1] in ".!?:"} | {
        i + 1 for i in styled
    }
    questions = {i for i in short_lines & after_ends if lines[i].text.endswith("?") and lines[i].text[0].isupper()}
    return {i for i in short_lines if _NUMBERED.fullmatch(lines[i].text)} | questions | (styled if questions else set())


def _find_heading_start(lines: Sequence[PdfLine], end: int) -> range:
    """Return the lines before `end` that belong to its heading: of the same font, from a number on."""
    for i in range(end - 1, max(end - HEADING_LINES, -1), -1):
        has_same_font = (lines[i].size, lines[i].bold) == (lines[end].size, lines[end].bold)
        if not has_same_font or len(lines[i].text) > HEADING_CHARS:
            break
        if _NUMBERED.fullmatch(lines[i].text):
            return range(i, end)
    return range(0)


def _split_sections(lines: list[PdfLine], headings: set[int]) -> list[PdfSection]:
    sections = [PdfSection(lines[0].page)]
    for i, line in enumerate(lines):
        if i not in headings:
            sections[-1].lines.append(line)
            continue
        last = sections[-1]
        is_wrapped = last.heading and not last.lines and line.size == last.heading[-1].size
        if is_wrapped and not _NUMBERED.fullmatch(line.text):
            last.heading.append(line)
        else:
            sections.append(PdfSection(line.page, [line]))
    return sections


def _rank_heading(heading: Sequence[PdfLine], heading_text: str, numbered: Collection[str]) -> tuple[float, ...]:
    """Return the rank of a heading: by font, and within a font titles, then numbers by depth, then questions."""
    if not heading:
        return ()
    number = compute_depth(heading_text, numbered) or (QUESTION_DEPTH if has_final_question_mark(heading_text) else 0)
    return heading[0].size, float(heading[0].bold), float(-number)


def _convert_sections(sections: list[PdfSection]) -> Iterator[PageSection]:
    headings = [join_lines(section.heading) for section in sections]
    numbered = find_section_numbers(headings)
    orders = [
        _rank_heading(section.heading, heading, numbered) for section, heading in zip(sections, headings, strict=True)
    ]
    ranks = sorted({order for order in orders if order}, reverse=True)
    number = 0
    for section, heading, order in zip(sections, headings, orders, strict=True):
        number += bool(section.lines)
        level = min(ranks.index(order) + 1, TERM_LEVEL - 1) if order else 0
        position = f"page {section.page}, section {max(number, 1)}"
        yield PageSection(position, level, heading, join_lines(section.lines, keep_code=True))
