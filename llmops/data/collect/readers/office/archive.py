"""Checks of Office documents and e-books, which are ZIP archives of XML, before a library opens them."""

from functools import wraps
from mmap import ACCESS_READ, mmap
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, is_zipfile

from llmops.data.collect.readers.decode import Unreadable, too_large
from llmops.data.collect.readers.origin import Items, Origin, Reader
from llmops.data.collect.readers.pages.html import LARGEST_TAGS
from llmops.frame.records import Dropped

LARGEST_ARCHIVE = 1 << 26  #: most unzipped bytes, unless the file itself has more (films do not shrink)

_CHUNK = 1 << 20
_OLD = b"\xd0\xcf\x11\xe0"  # begins the formats before 2007, and what holds an encrypted document
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")


def archived(reader: Reader) -> Reader:
    """Return the reader of a kind of archive, with these checks before it."""

    @wraps(reader)
    def read(path: Path, origin: Origin) -> Items:
        if refused := _refused(path, origin):
            yield refused
        else:
            yield from reader(path, origin)

    return guarded(read)


def guarded(reader: Reader) -> Reader:
    """Return the reader with a row for an empty file. Any error of its library means that the file is unreadable."""

    @wraps(reader)
    def read(path: Path, origin: Origin) -> Items:
        empty = True
        try:
            for item in reader(path, origin):
                empty = False
                yield item
        except (Unreadable, MemoryError):
            raise
        except Exception as error:  # a damaged file makes libraries raise nearly anything
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise Unreadable(f"no readable {origin.source.kind}: {cause}") from error
        if empty:
            yield origin.dropped("file", "empty", "it holds no text; text in pictures needs OCR first")

    return read


def _refused(path: Path, origin: Origin) -> Dropped | None:
    """Return the quarantined row of a file that is encrypted or has XML entities; None for a good one.

    Bytes are counted while they are unzipped, because an archive may state other sizes. Zero bytes are skipped, because
    XML may be UTF-16.

    Raises:
        Unreadable: if the file is in an old format, or would fill the memory.
    """
    locked = origin.dropped("file", "encrypted", "it needs a password; save it without one")
    with path.open("rb") as file:
        if file.read(4) == _OLD:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                if data.find(_ENCRYPTED) >= 0:
                    return locked
            raise Unreadable(f"it is an Office document from before 2007; save it as {origin.source.kind}")
    if not is_zipfile(path):
        raise Unreadable(f"it is no {origin.source.kind} file, or it is cut off; save it anew")
    left, tags = max(LARGEST_ARCHIVE, path.stat().st_size), LARGEST_TAGS
    with ZipFile(path) as archive:
        for part in archive.infolist():
            if part.flag_bits & 1:
                return locked
            if part.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise Unreadable(f"{part.filename} is compressed as no Office program does; save it anew")
            part.file_size = 1 << 62  # read on to the true end
            before = b""
            with archive.open(part) as opened:
                while chunk := opened.read(_CHUNK):
                    left -= len(chunk)
                    content = before + chunk.replace(b"\0", b"")
                    tags -= content.count(b"</") + content.count(b"/>")
                    if left < 0:
                        raise too_large(LARGEST_ARCHIVE, "bytes", "split it")
                    if tags < 0:
                        raise too_large(LARGEST_TAGS, "tags", "split it, or save a large table as CSV")
                    if b"<!ENTITY" in content and not part.filename.endswith(".svg"):  # pictures are not read
                        detail = f"{part.filename} declares entities, as no Office program does"
                        return origin.dropped("file", "unsafe", detail)
                    before = content[-7:]
    return None
