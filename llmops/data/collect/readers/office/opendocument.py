"""Checks of OpenDocument files, and a copy without what is not their text."""

import io
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from lxml import etree

from llmops.data.collect.readers.decoding import UnreadableError

MIMES = {
    "odt": "application/vnd.oasis.opendocument.text",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
}  #: kind → what the part `mimetype` says
LARGEST_REPEAT = 1 << 10  #: most repetitions of a cell or space; a few bytes may ask for millions


def is_encrypted(path: Path) -> bool:
    """Return True if parts of the file are encrypted with a password."""
    with ZipFile(path) as archive:
        return b"encryption-data" in _read_part(archive, "META-INF/manifest.xml")


def copy_text(path: Path, kind: str) -> bytes:
    """Return the file without pictures, comments and the text of hidden slides. Covered cells become empty ones.

    Raises:
        UnreadableError: if it is another kind of file.
    """
    with ZipFile(path) as archive:
        if _read_part(archive, "mimetype").strip().removesuffix(b"-template") != MIMES[kind].encode():
            raise UnreadableError(f"it is no {kind} file; name the kind that it is, or save it as {kind}")
        root: Any = etree.fromstring(archive.read("content.xml"), etree.XMLParser(resolve_entities=False))
        # The master slides of a presentation, which its styles hold, would be read as its text.
        names = ("META-INF/manifest.xml", *(("styles.xml",) if kind != "odp" else ()))
        parts = {name: _read_part(archive, name) for name in names}
    _remove_hidden(root)
    _name_slides(root)
    _unmerge_cells(root)
    parts |= {"mimetype": MIMES[kind].encode(), "content.xml": etree.tostring(root)}
    out = io.BytesIO()
    with ZipFile(out, "w", ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return out.getvalue()


def _read_part(archive: ZipFile, name: str) -> bytes:
    return archive.read(name) if name in archive.namelist() else b""


def _remove_hidden(root: Any) -> None:
    styles = root.iterfind(".//{*}style[{*}drawing-page-properties]")
    hidden = {
        _get(style, "name")
        for style in styles
        if _get(style.find("{*}drawing-page-properties"), "visibility") == "hidden"
    }
    slides = [page for page in root.iterfind(".//{*}page") if _get(page, "style-name") in hidden]
    for slide in slides:
        del slide[:]  # the slides behind it keep their numbers
    for element in [*root.iterfind(".//{*}annotation"), *root.iterfind(".//{*}image")]:
        parent, previous = element.getparent(), element.getprevious()
        if previous is not None:
            previous.tail = (previous.tail or "") + (element.tail or "")
        else:
            parent.text = (parent.text or "") + (element.tail or "")
        parent.remove(element)


def _name_slides(root: Any) -> None:
    """Make the title of a slide its name, which xberg writes as its heading. An untitled slide has a number as name."""
    for number, slide in enumerate(root.iterfind(".//{*}presentation/{*}page"), start=1):
        key = next((key for key in slide.attrib if etree.QName(key).localname == "name"), "name")
        title = next((frame for frame in slide if _get(frame, "class") == "title"), None)
        slide.set(key, f"Slide {number}")
        if title is not None and (text := " ".join("".join(title.itertext()).split())):
            slide.set(key, text)
            slide.remove(title)


def _unmerge_cells(root: Any) -> None:
    for element in root.iter("{*}covered-table-cell", "{*}table-cell", "{*}table-row", "{*}s"):
        name = etree.QName(element)
        if name.localname == "covered-table-cell":
            element.tag = f"{{{name.namespace}}}table-cell"
        for key in element.attrib:
            local = etree.QName(key).localname
            if local in ("number-columns-spanned", "number-rows-spanned"):
                del element.attrib[key]
            elif local in ("number-columns-repeated", "number-rows-repeated", "c"):
                count = element.get(key)
                if not count.isdigit() or int(count) > LARGEST_REPEAT:
                    element.set(key, "1")  # the empty rest of a sheet or line


def _get(element: Any, name: str) -> str:
    """Return an attribute of any namespace; empty if there is none."""
    return next((str(value) for key, value in element.attrib.items() if etree.QName(key).localname == name), "")
