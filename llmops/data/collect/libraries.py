"""The packages that decide what a reader makes of a file: another version of them reads it anew."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

TEXT = ("charset-normalizer",)
LIBRARIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("csv", "json", "jsonl", "chat", "text"), TEXT),
    "dataset": ("datasets", "huggingface-hub", "pyarrow"),
    "html": ("beautifulsoup4", "lxml", *TEXT),
    "markdown": ("markdown-it-py", *TEXT),
    "parquet": ("pyarrow",),
    "pdf": ("pdfplumber", "pdfminer.six"),
    "xml": ("defusedxml", *TEXT),
}  #: of each kind of file; what a database holds is its rows, whoever asks


@cache
def libraries(kind: str) -> str:
    """The packages behind the reader of a kind, with their versions.

    Also a patch counts: one of pdfplumber brings another pdfminer along, and to read again costs little.
    """
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES.get(kind, ()))
