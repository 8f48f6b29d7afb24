"""Checks of Office documents and e-books, which are ZIP archives of XML, before a library opens them."""

from functools import wraps
from mmap import ACCESS_READ, mmap
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, is_zipfile

from llmops.data.collect.readers.decoding import UnreadableError, make_size_error
from llmops.data.collect.readers.origin import Items, Origin, Reader
from llmops.data.collect.readers.pages.html import LARGEST_TAGS
from llmops.frame.records import DroppedRow

LARGEST_ARCHIVE = 1 << 26  #: most unzipped bytes beyond the file's size: films hardly shrink

_CHUNK = 1 << 20
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"  # the first bytes of formats before 2007, and of encrypted documents
_ENCRYPTED_PACKAGE = "EncryptedPackage".encode("utf-16-le")


def check_archive(reader: Reader) -> Reader:
    """Return a reader that checks the archive before it calls `reader`.

    The checks find old formats, encryption, odd compression, archives too large for memory, and XML entities.
    """

    @wraps(reader)
    def read(path: Path, origin: Origin) -> Items:
        if refusal := _find_refusal(path, origin):
            yield refusal
        else:
            yield from reader(path, origin)

    return convert_failures(read)


def convert_failures(reader: Reader) -> Reader:
    """Return a reader that yields a quarantined row for a file without text.

    It raises `UnreadableError` for any error of the library of `reader`; the caller then quarantines the file.
    """

    @wraps(reader)
    def read(path: Path, origin: Origin) -> Items:
        is_empty = True
        try:
            for item in reader(path, origin):
                is_empty = False
                yield item
        except (UnreadableError, MemoryError):
            raise
        except Exception as error:  # a damaged file makes libraries raise nearly anything
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UnreadableError(f"no readable {origin.source.kind}: {cause}") from error
        if is_empty:
            yield origin.make_dropped("file", "empty", "it holds no text; text in pictures needs OCR first")

    return read


def _find_refusal(path: Path, origin: Origin) -> DroppedRow | None:
    """Return the quarantined row of a file that is encrypted or has XML entities; None for a good one.

    Bytes are counted while they are unzipped, because an archive may state wrong sizes. Zero bytes are skipped, because
    XML may be UTF-16. Encryption and entities have rules of their own, so they give a row instead of an error.

    Raises:
        UnreadableError: if the file is in an old format, or would fill the memory.
    """
    encrypted_row = origin.make_dropped("file", "encrypted", "it needs a password; save it without one")
    with path.open("rb") as file:
        if file.read(4) == _OLD_OFFICE:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                if data.find(_ENCRYPTED_PACKAGE) >= 0:
                    return encrypted_row
            raise UnreadableError(
                "it is an Office document from before 2007; name the kind `doc`, `xls` or `ppt`, or save it as "
                f"{origin.source.kind}"
            )
    if not is_zipfile(path):
        raise UnreadableError(f"it is no {origin.source.kind} file, or it is cut off; save it anew")
    bytes_left, tags_left = LARGEST_ARCHIVE + path.stat().st_size, LARGEST_TAGS
    with ZipFile(path) as archive:
        for part in archive.infolist():
            if part.flag_bits & 1:
                return encrypted_row
            if part.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise UnreadableError(f"{part.filename} is compressed as no Office program does; save it anew")
            part.file_size = 1 << 62  # ignore the stated size and read to the true end
            previous_end = b""
            with archive.open(part) as part_file:
                while chunk := part_file.read(_CHUNK):
                    bytes_left -= len(chunk)
                    content = previous_end + chunk.replace(b"\0", b"")
                    tags_left -= content.count(b"</") + content.count(b"/>")
                    if bytes_left < 0:
                        raise make_size_error(LARGEST_ARCHIVE, "bytes", "split it")
                    if tags_left < 0:
                        raise make_size_error(LARGEST_TAGS, "tags", "split it, or save a large table as CSV")
                    if b"<!ENTITY" in content and not part.filename.endswith(".svg"):  # pictures are not read
                        detail = f"{part.filename} declares entities, as no Office program does"
                        return origin.make_dropped("file", "unsafe", detail)
                    previous_end = content[-7:]  # one byte less than `<!ENTITY`
    return None
