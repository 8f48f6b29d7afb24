"""Office files as python-docx, python-pptx and openpyxl write them, and archives of parts."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import docx
import openpyxl
import pptx

ENCRYPTED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le")  #: as Office's own begins
CONTAINER = '<container xmlns="urn:x"><rootfiles><rootfile full-path="in/book.opf"/></rootfiles></container>'


def made(new: Callable[[], Any], write: Callable[[Any], object]) -> bytes:
    """Return the file of a document that `write` has written to."""
    out = io.BytesIO()
    document = new()
    write(document)
    document.save(out)
    return out.getvalue()


def slide(file: Any) -> Any:
    """Return a new slide with a title and a list."""
    return file.slides.add_slide(file.slide_layouts[1])


def archive(parts: Mapping[str, str | bytes], of: bytes = b"") -> bytes:
    """Return a ZIP archive of parts, in place of or beside those of another one."""
    out = io.BytesIO()
    with ZipFile(out, "w", ZIP_DEFLATED) as new:
        if of:
            with ZipFile(io.BytesIO(of)) as old:
                parts = {name: old.read(name) for name in old.namelist()} | dict(parts)
        for name, part in parts.items():
            new.writestr(name, part)
    return out.getvalue()


def epub(*chapters: str, **more: str) -> bytes:
    """Return a book of chapters."""
    items = "".join(f'<item id="c{n}" href="ch%20{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="urn:o" xmlns:dc="urn:d"><metadata><dc:title>The Book</dc:title></metadata>'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    files = {f"in/ch {n}.xhtml": text for n, text in enumerate(chapters)}
    return archive({"META-INF/container.xml": CONTAINER, "in/book.opf": package, **files, **more})


GOOD = {
    "docx": made(docx.Document, lambda file: file.add_paragraph("text")),
    "pptx": made(pptx.Presentation, lambda file: setattr(slide(file).shapes.title, "text", "Who?")),
    "xlsx": made(openpyxl.Workbook, lambda file: file.active.append(["text"])),
    "epub": epub("<p>text</p>"),
    "eml": b"Subject: Tents\n\ntext",
}  #: kind → a file of one document
