"""Read one file with the reader of its kind."""

from collections.abc import Iterable
from pathlib import Path

from llmops.config import Source
from llmops.data.collect.readers.kinds import READERS
from llmops.data.collect.readers.origin import Item, Origin
from llmops.frame.records import Document, DroppedRow


def read_file(kind: str, folder: Path, data: str | bytes | None, name: str = "x", **source: object) -> list[Item]:
    """Return the items of a file. `data` is its content; None if the file exists already."""
    if data is not None:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    origin = Origin(Source(name="s", kind=kind, location=name, **source), name, "2026-01-31")
    return list(READERS[kind](folder / name, origin))


def get_documents(items: Iterable[Item]) -> list[Document]:
    return [item for item in items if isinstance(item, Document)]


def list_dropped(items: Iterable[Item]) -> list[tuple[str, str]]:
    return [(item.rule, item.position) for item in items if isinstance(item, DroppedRow)]


def get_document(items: Iterable[Item]) -> Document:
    (item,) = items
    assert isinstance(item, Document), item
    return item


def list_pairs(items: Iterable[Item]) -> list[tuple[str, str]]:
    return [(item.question, item.answer) for item in get_documents(items)]
