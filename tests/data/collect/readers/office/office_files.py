"""Office files as python-docx, python-pptx and openpyxl write them, and archives of parts."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import docx
import openpyxl
import pptx

#: the beginning of a file that Office has encrypted
ENCRYPTED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le")
MADE_BY_LIBREOFFICE = Path(__file__).parent / "made_by_libreoffice"
CONTAINER = '<container xmlns="urn:x"><rootfiles><rootfile full-path="in/book.opf"/></rootfiles></container>'


def save_document(make_empty: Callable[[], Any], write: Callable[[Any], object]) -> bytes:
    """Return the bytes of a new document after `write` has filled it."""
    out = io.BytesIO()
    document = make_empty()
    write(document)
    document.save(out)
    return out.getvalue()


def add_slide(file: Any) -> Any:
    """Add a slide with a title and a list. Return it."""
    return file.slides.add_slide(file.slide_layouts[1])


def make_archive(parts: Mapping[str, str | bytes], original: bytes = b"") -> bytes:
    """Return a ZIP archive of the parts of `original`, replaced or extended by `parts`."""
    out = io.BytesIO()
    with ZipFile(out, "w", ZIP_DEFLATED) as new:
        if original:
            with ZipFile(io.BytesIO(original)) as old:
                parts = {name: old.read(name) for name in old.namelist()} | dict(parts)
        for name, part in parts.items():
            new.writestr(name, part)
    return out.getvalue()


def make_epub(*chapters: str, **more: str) -> bytes:
    """Return an e-book of these chapters."""
    items = "".join(f'<item id="c{n}" href="ch%20{n}.xhtml"/>' for n in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="urn:o" xmlns:dc="urn:d"><metadata><dc:title>The Book</dc:title></metadata>'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    files = {f"in/ch {n}.xhtml": text for n, text in enumerate(chapters)}
    return make_archive({"META-INF/container.xml": CONTAINER, "in/book.opf": package, **files, **more})


def make_opendocument(mime: str, body: str) -> bytes:
    """Return an OpenDocument file with this body."""
    base = "urn:oasis:names:tc:opendocument:xmlns"
    names = " ".join(f'xmlns:{name}="{base}:{end}:1.0"' for name, end in [
        ("office", "office"), ("text", "text"), ("table", "table"), ("draw", "drawing"),
    ])  # fmt: skip
    content = f"<office:document-content {names}><office:body>{body}</office:body></office:document-content>"
    return make_archive({"mimetype": f"application/vnd.oasis.opendocument.{mime}", "content.xml": content})


_TEXT = "<text:p>text</text:p>"
GOOD = {
    "docx": save_document(docx.Document, lambda file: file.add_paragraph("text")),
    "pptx": save_document(pptx.Presentation, lambda file: setattr(add_slide(file).shapes.title, "text", "Who?")),
    "xlsx": save_document(openpyxl.Workbook, lambda file: file.active.append(["text"])),
    "epub": make_epub("<p>text</p>"),
    "odt": make_opendocument("text", f"<office:text>{_TEXT}</office:text>"),
    "ods": make_opendocument(
        "spreadsheet",
        '<office:spreadsheet><table:table table:name="A"><table:table-row><table:table-cell office:value-type="string">'
        f"{_TEXT}</table:table-cell></table:table-row></table:table></office:spreadsheet>",
    ),
    "odp": make_opendocument(
        "presentation",
        "<office:presentation><draw:page><draw:frame><draw:text-box>"
        f"{_TEXT}</draw:text-box></draw:frame></draw:page></office:presentation>",
    ),
    "rtf": b"{\\rtf1 text}",
    "doc": (MADE_BY_LIBREOFFICE / "one.doc").read_bytes(),
    "xls": (MADE_BY_LIBREOFFICE / "one.xls").read_bytes(),
    "ppt": gzip.decompress((MADE_BY_LIBREOFFICE / "slides.ppt.gz").read_bytes()),
    "eml": b"Subject: Tents\n\ntext",
}  #: kind → a small file, mostly of one document
