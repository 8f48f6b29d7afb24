"""Read one file with the reader of its kind."""

from collections.abc import Iterable
from pathlib import Path

from llmops.config import Source
from llmops.data.collect.readers.kinds import READERS
from llmops.data.collect.readers.origin import Item, Origin
from llmops.frame.records import Document, Dropped


def read_file(kind: str, folder: Path, data: str | bytes | None, name: str = "x", **source: object) -> list[Item]:
    """Return all that the reader gives of a file: one with these contents, or one that is there already."""
    if data is not None:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    origin = Origin(Source(name="s", kind=kind, location=name, **source), name, "2026-01-31")
    return list(READERS[kind](folder / name, origin))


def documents(items: Iterable[Item]) -> list[Document]:
    return [item for item in items if isinstance(item, Document)]


def dropped(items: Iterable[Item]) -> list[tuple[str, str]]:
    return [(item.rule, item.position) for item in items if isinstance(item, Dropped)]


def only(items: Iterable[Item]) -> Document:
    (item,) = items
    assert isinstance(item, Document), item
    return item


def pairs(items: Iterable[Item]) -> list[tuple[str, str]]:
    return [(item.question, item.answer) for item in documents(items)]
