"""E-books: HTML chapters in the order of the book, each cut at its headings."""

import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zipfile import ZipFile

from defusedxml.ElementTree import fromstring

from llmops.data.collect.readers.office.archive_checks import check_archive
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages import html


@check_archive
def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it (see `html.convert_book`). Encrypted chapters are quarantined."""
    with ZipFile(path) as archive:
        container: Any = fromstring(archive.read("META-INF/container.xml"))
        name = container.find(".//{*}rootfile").get("full-path")
        package: Any = fromstring(archive.read(name))
        title = " ".join((package.findtext(".//{*}metadata/{*}title") or "").split())
        files = {item.get("id"): unquote(item.get("href")) for item in package.iterfind(".//{*}manifest/{*}item")}
        encryption_file = "META-INF/encryption.xml"
        encrypted_names = (
            unquote(archive.read(encryption_file).decode()) if encryption_file in archive.namelist() else ""
        )
        chapters = dict.fromkeys(item.get("idref") for item in package.iterfind(".//{*}spine/{*}itemref"))
        for number, chapter in enumerate(chapters, start=1):
            file = posixpath.normpath(posixpath.join(posixpath.dirname(name), files[chapter]))
            if f'"{file}"' in encrypted_names:
                yield origin.make_dropped(
                    f"chapter {number}", "encrypted", "it has copy protection; use a copy without it"
                )
                continue
            yield from html.convert_book(html.parse_html(archive.read(file)), origin.enter(f"chapter {number}"), title)
