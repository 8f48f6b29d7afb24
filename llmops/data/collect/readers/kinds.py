"""The readers by kind of source. `sql` is not a kind of file; `sql_rows` reads it."""

from functools import wraps
from pathlib import Path

from llmops.data.collect.readers import (
    chat_turns,
    csv_rows,
    dataset_rows,
    json_records,
    parquet_rows,
    plain_text,
    xml_records,
)
from llmops.data.collect.readers.decoding import UnreadableError
from llmops.data.collect.readers.office import converted, docx, eml, epub, pptx, xlsx
from llmops.data.collect.readers.office.archive_checks import convert_failures
from llmops.data.collect.readers.origin import Items, Origin, Reader
from llmops.data.collect.readers.pages import html, markdown
from llmops.data.collect.readers.pdf import pdf


def check_file(reader: Reader) -> Reader:
    """Return a reader that quarantines an empty file, and one whose library raises ValueError or MemoryError.

    Each reader has its own checks and limits. This catches the cases that they do not foresee.
    """

    @wraps(reader)
    def read(path: Path, origin: Origin) -> Items:
        if path.is_file() and not path.stat().st_size:
            yield origin.make_dropped("file", "empty", "the file is empty")
            return
        try:
            yield from reader(path, origin)
        except MemoryError as error:
            raise UnreadableError("it needs more memory than there is; split it") from error
        except ValueError as error:
            raise UnreadableError(f"it holds what cannot be read: {' '.join(str(error).split())[:300]}") from error

    return read


@convert_failures
def _read_mail(path: Path, origin: Origin) -> Items:
    return eml.read(path, origin, _ATTACHED)


_READERS: dict[str, Reader] = {
    "csv": csv_rows.read,
    "parquet": parquet_rows.read,
    "dataset": dataset_rows.read,
    "json": json_records.read,
    "jsonl": json_records.read_jsonl,
    "xml": xml_records.read,
    "html": html.read,
    "pdf": pdf.read,
    "docx": docx.read,
    "pptx": pptx.read,
    "xlsx": xlsx.read,
    **dict.fromkeys(("odt", "odp", "ods"), converted.read_opendocument),
    **dict.fromkeys(("rtf", "doc", "ppt", "xls"), converted.read_binary),
    "epub": epub.read,
    "eml": _read_mail,
    "chat": chat_turns.read,
    "markdown": markdown.read,
    "text": plain_text.read,
}
READERS = {kind: check_file(reader) for kind, reader in _READERS.items()}
#: readers of what is attached to an e-mail, by the end of its name: of the kinds that need no settings
_ATTACHED = {
    f".{kind}": READERS[kind]
    for kind in (
        *("html", "pdf", "docx", "pptx", "xlsx", "epub", "eml"),
        *("odt", "odp", "ods", "rtf", "doc", "ppt", "xls"),
    )
}
_ATTACHED |= {".htm": READERS["html"], ".md": READERS["markdown"], ".txt": READERS["text"]}


def read_file(path: Path, origin: Origin) -> Items:
    """Yield the rows of a file of any kind."""
    return READERS[origin.source.kind](path, origin)
