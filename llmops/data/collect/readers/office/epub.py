"""E-books: HTML chapters in the order of the book, each cut at its headings."""

import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from zipfile import ZipFile

from defusedxml.ElementTree import fromstring

from llmops.data.collect.readers.office.archive import archived
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.collect.readers.pages import html


@archived
def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text below it (see `html.book_items`). Encrypted chapters are quarantined."""
    with ZipFile(path) as archive:
        container: Any = fromstring(archive.read("META-INF/container.xml"))
        name = container.find(".//{*}rootfile").get("full-path")
        package: Any = fromstring(archive.read(name))
        title = " ".join((package.findtext(".//{*}metadata/{*}title") or "").split())
        files = {item.get("id"): unquote(item.get("href")) for item in package.iterfind(".//{*}manifest/{*}item")}
        locks = "META-INF/encryption.xml"
        locked = unquote(archive.read(locks).decode()) if locks in archive.namelist() else ""
        order = dict.fromkeys(item.get("idref") for item in package.iterfind(".//{*}spine/{*}itemref"))
        for number, chapter in enumerate(order, start=1):
            file = posixpath.normpath(posixpath.join(posixpath.dirname(name), files[chapter]))
            if f'"{file}"' in locked:
                yield origin.dropped(f"chapter {number}", "encrypted", "it has copy protection; use a copy without it")
                continue
            yield from html.book_items(html.parsed(archive.read(file)), origin, title, f"chapter {number}, ")
