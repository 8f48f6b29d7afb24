"""OpenDocument, RTF and Office before 2007, converted to Markdown by xberg and cut at their headings."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llmops.data.collect.readers.decoding import LARGEST_PAGE, UnreadableError, make_size_error
from llmops.data.collect.readers.office import opendocument
from llmops.data.collect.readers.office.archive_checks import LARGEST_ARCHIVE, check_archive, convert_failures
from llmops.data.collect.readers.origin import Items, Origin, Reader
from llmops.data.collect.readers.pages.markdown import split_sections
from llmops.data.collect.readers.pages.sections import PageSection, make_documents
from llmops.data.text.headings import has_final_question_mark, is_question

MIMES = {
    **opendocument.MIMES,
    "rtf": "application/rtf",
    "doc": "application/msword",
    "xls": "application/vnd.ms-excel",
    "ppt": "application/vnd.ms-powerpoint",
}  #: kind → type of its files
SIGNATURES = {"rtf": b"{\\rtf", **dict.fromkeys(("doc", "xls", "ppt"), b"\xd0\xcf\x11\xe0")}

# Names of the streams of Office's files, and of parts that only encrypted ones have.
_STREAMS = {"doc": ("WordDocument",), "xls": ("Workbook", "Book"), "ppt": ("PowerPoint Document",)}
_ENCRYPTED_STREAMS = ("EncryptedPackage", "EncryptedSummary")
_NOTE = re.compile(r"^\[\^(\w+)\]:\n?((?:[ ]{4}.*\n?|\n)*)", re.MULTILINE)
_NOTE_MARK = re.compile(r"\[\^(\w+)\]")
_PICTURE = re.compile(r"!\[[^\]\n]*\]\(image_\d+\.\w+\)")
_TABLE_RULE = re.compile(r"^\|(?: --- \|)+$", re.MULTILINE)
_BOLD_LINE = re.compile(r"^\*\*([^*\n]+)\*\*$", re.MULTILINE)
_SLIDE_END = re.compile(r"^-----$", re.MULTILINE)


def _read_opendocument(path: Path, origin: Origin) -> Items:
    if opendocument.is_encrypted(path):
        yield origin.make_dropped("file", "encrypted", "it needs a password; save it without one")
        return
    yield from _convert(opendocument.copy_text(path, origin.source.kind), origin)


def _read_binary(path: Path, origin: Origin) -> Items:
    kind = origin.source.kind
    with path.open("rb") as file:
        data = file.read(LARGEST_ARCHIVE + 1)
    if len(data) > LARGEST_ARCHIVE:
        raise make_size_error(LARGEST_ARCHIVE, "bytes", "split it")
    if not data.strip():
        yield origin.make_dropped("file", "empty", "the file is empty")
        return
    if not data.lstrip().startswith(SIGNATURES[kind]):
        raise UnreadableError(f"it is no {kind} file; name the kind that it is, or save it as {kind}")
    if kind == "rtf" and not data.rstrip(b"\0 \t\r\n").endswith(b"}"):
        raise UnreadableError("it is cut off: its last bracket is missing; save it anew")
    if kind in _STREAMS:
        if any(name.encode("utf-16-le") in data for name in _ENCRYPTED_STREAMS) or _has_password(data, kind):
            yield origin.make_dropped("file", "encrypted", "it needs a password; save it without one")
            return
        if not any(name.encode("utf-16-le") in data for name in _STREAMS[kind]):
            raise UnreadableError(f"it is no {kind} file, or it is cut off; save it anew")
    yield from _convert(data, origin)


read_opendocument: Reader = check_archive(_read_opendocument)
read_binary: Reader = convert_failures(_read_binary)


def _has_password(data: bytes, kind: str) -> bool:
    """Return True if a flag of Word's header, or Excel's record FILEPASS, says so. A sector begins with it."""
    for start in range(512, len(data) - 16, 512):
        if kind == "doc" and data[start : start + 2] == b"\xec\xa5":  # FibBase, [MS-DOC] 2.5.2
            return bool(data[start + 11] & 1)
        if kind == "xls" and data[start : start + 2] == b"\x09\x08":  # BOF, [MS-XLS] 2.4.21
            after = start + 4 + int.from_bytes(data[start + 2 : start + 4], "little")
            return data[after : after + 2] == b"\x2f\x00"
    return False


def _convert(data: bytes, origin: Origin) -> Items:
    kind = origin.source.kind
    result = asyncio.run(_extract(data, kind))
    if result.errors:
        raise UnreadableError(f"no readable {kind}: {' '.join(result.errors[0].message.split())[:300]}")
    document = result.results[0]
    if len(document.content) > LARGEST_PAGE:
        raise make_size_error(LARGEST_PAGE, "characters", "split it")
    if kind in ("ods", "xls"):
        yield from make_documents(_split_sheets(document), origin)
        return
    text, notes = _move_notes(_PICTURE.sub("", document.content))
    text = _TABLE_RULE.sub(lambda rule: rule[0].replace(" ", ""), text)
    if kind == "rtf":
        text = _BOLD_LINE.sub(_mark_question, text)
    sections = _split_slides(text) if kind in ("odp", "ppt") else _number_sections(split_sections(text))
    yield from make_documents([*sections, PageSection("notes", 1, "", notes)], origin)


async def _extract(data: bytes, kind: str) -> Any:
    import xberg

    config = xberg.ExtractionConfig(
        output_format="markdown",
        use_cache=False,
        disable_ocr=True,
        escape_markdown=False,
        pages=xberg.PageConfig(extract_pages=True),
    )
    given = xberg.ExtractInput(kind="bytes", bytes=data, mime_type=MIMES[kind], filename=f"file.{kind}")
    return await xberg.extract(given, config)


def _split_sheets(document: Any) -> Iterator[PageSection]:
    lines = {*document.content.split("\n")}
    for page in document.pages or []:
        if f"## {page.sheet_name} (hidden)" not in lines:
            text = _TABLE_RULE.sub(lambda rule: rule[0].replace(" ", ""), page.content).strip()
            yield PageSection(f"sheet {page.sheet_name}", 1, page.sheet_name, text)


def _split_slides(text: str) -> Iterator[PageSection]:
    """Yield the slides, which begin with a rule and mostly a title."""
    for number, slide in enumerate(_SLIDE_END.split(text)[1:], start=1):
        blocks = [part.strip() for part in re.split(r"\n{2,}", slide) if part.strip()]
        heading = ""
        if blocks and blocks[0].startswith("## "):
            heading = blocks.pop(0).removeprefix("## ")
        yield PageSection(f"slide {number}", 1, heading, "\n\n".join(blocks))


def _move_notes(text: str) -> tuple[str, str]:
    """Return the text with each note in brackets at its mark, and the notes without a mark. Comments are left out."""
    notes = {match[1]: " ".join(match[2].split()) for match in _NOTE.finditer(text)}
    text = re.sub(r"^(?:\[\^\w+\])+$\n*", "", _NOTE.sub("", text), flags=re.MULTILINE)  # the marks of a paragraph again
    marked = {*_NOTE_MARK.findall(text)}
    text = _NOTE_MARK.sub(partial(_format_note, notes), text)
    return text, "\n".join(note for name, note in notes.items() if name not in marked and not name.startswith("cmt"))


def _format_note(notes: dict[str, str], mark: re.Match[str]) -> str:
    return f" [{note}]" if (note := notes.get(mark[1])) else ""


def _mark_question(line: re.Match[str]) -> str:
    return f"###### {line[1]}" if is_question(line[1].strip()) else line[0]


def _number_sections(sections: Iterable[PageSection]) -> Iterator[PageSection]:
    number = 0
    for section in sections:
        number += bool(section.text or has_final_question_mark(section.heading))
        yield replace(section, position=f"section {number}")
