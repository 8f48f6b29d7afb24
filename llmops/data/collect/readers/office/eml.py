"""E-mails (`.eml`): the text of a message, with its subject as context, and its attachments.

Its addresses are not read. An attachment is read by the reader of its kind, which the end of its name tells, or else
its type.
"""

import codecs
import mimetypes
import re
from collections.abc import Iterator, Mapping
from email import message_from_bytes, policy
from email.message import MIMEPart
from pathlib import Path
from tempfile import NamedTemporaryFile

from llmops.data.collect.readers.decoding import UnreadableError, make_size_error, open_bytes
from llmops.data.collect.readers.office.archive_checks import LARGEST_ARCHIVE
from llmops.data.collect.readers.origin import Items, Origin, Reader
from llmops.data.collect.readers.pages import html
from llmops.data.collect.readers.pages.sections import PageSection, make_texts

LARGEST_HEADER = 1 << 16  #: most characters of a header, which takes the parser the square of its length
MAX_LINES = 1 << 20  #: most lines; each takes some 100 bytes of memory

_EMBEDDED_TYPES = re.compile("^image/|-signature$")  # not an attachment
_SIGNATURE = re.compile(r"\n-- \n.*?(?=\n\s*\n|\n>|\n-{4}|\Z)", re.DOTALL)  # ends before what was forwarded
_ENCRYPTED_TYPES = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")


def read(path: Path, origin: Origin, readers: Mapping[str, Reader]) -> Items:
    """Yield the text of the message, in parts if it is long, then the rows of its attachments.

    `readers` are those of attachments, by the ends of their names, such as `.pdf`. Other attachments are quarantined.

    A subject never becomes a question: the text below it is as often a question as an answer. If a text is there in
    plain and in HTML, the plain one is read, without the signature.
    """
    with open_bytes(path) as file:
        data = file.read(LARGEST_ARCHIVE + 1)
    if len(data) > LARGEST_ARCHIVE or data.count(b"\n") > MAX_LINES:
        raise make_size_error(LARGEST_ARCHIVE, f"bytes or {MAX_LINES:,} lines", "save it without its attachments")
    message = message_from_bytes(data, policy=policy.default)
    if not any(name in message for name in ("From", "Date", "Subject")):
        raise UnreadableError("it is no e-mail: it has no header From, Date or Subject")
    if any(len(value) > LARGEST_HEADER for part in message.walk() for _, value in part.raw_items()):
        raise make_size_error(LARGEST_HEADER, "characters in one header", "save it without that header")
    if message.get_content_type() in _ENCRYPTED_TYPES:
        yield origin.make_dropped("file", "encrypted", "it is encrypted (S/MIME or PGP); save it decrypted")
        return
    bodies: list[str] = []
    attachments: list[MIMEPart] = []
    for part in _yield_parts(message):
        if _is_file(part):
            if not _EMBEDDED_TYPES.search(part.get_content_type()):
                attachments.append(part)
        elif part.get_content_type() in ("text/plain", "text/html"):
            bodies.append(_decode_text(part, origin.source.encoding or "utf-8"))
    subject = " ".join(str(message["Subject"] or "").split())
    yield from make_texts(PageSection("body", 1, subject, "\n\n".join(filter(None, bodies))), subject, origin)
    for number, part in enumerate(attachments, start=1):
        name = part.get_filename() or part.get_content_type()
        suffix = Path(name).suffix.lower() or mimetypes.guess_extension(part.get_content_type()) or ""
        if reader := readers.get(suffix):
            yield from _read_attachment(part, path, reader, origin.enter(f"attachment {number}"))
        else:
            detail = f"{name} is not read; save it as a file, and name that in a source of its kind"
            yield origin.make_dropped(f"attachment {number}", "attachment", detail)


def _read_attachment(part: MIMEPart, mail: Path, reader: Reader, origin: Origin) -> Items:
    # Beside the mail: if this process is killed, the copy goes with that of the mail.
    with NamedTemporaryFile(dir=mail.parent, suffix=".attachment") as file:
        content = part.get_payload(decode=True)
        file.write(content if isinstance(content, bytes) else part.get_content().as_bytes())
        file.flush()
        try:
            yield from reader(Path(file.name), origin)
        except OSError as error:
            yield origin.make_dropped("file", "unreadable", error.strerror or str(error))


def _yield_parts(message: MIMEPart) -> Iterator[MIMEPart]:
    """Yield the parts of a message and of forwarded ones. Of alternative parts, yield the plain one, else the last."""
    if _is_file(message) or not message.is_multipart():
        yield message
        return
    parts = [[*_yield_parts(part)] for part in message.iter_parts()]
    if message.get_content_type() == "multipart/alternative":
        plain_alternatives = (
            alternative for alternative in parts if any(part.get_content_type() == "text/plain" for part in alternative)
        )
        parts = [next(plain_alternatives, parts[-1])] if parts else []
    for alternative in parts:
        yield from alternative


def _is_file(part: MIMEPart) -> bool:
    return part.is_attachment() or bool(part.get_filename())


def _decode_text(part: MIMEPart, default: str) -> str:
    content, charset = part.get_payload(decode=True), part.get_content_charset(default)
    assert isinstance(content, bytes)  # it is a list for a message of several parts, which a text has not
    charset = charset.removesuffix("-i").removesuffix("-e")  # Hebrew and Arabic, with their direction
    try:
        codecs.lookup(charset)
    except LookupError:
        charset = default
    if part.get_content_subtype() == "html":
        return html.extract_text(html.parse_html(content, charset))
    lines = content.decode(charset, "surrogateescape").replace("\r\n", "\n")
    return _SIGNATURE.sub("", f"\n{lines}").strip()
