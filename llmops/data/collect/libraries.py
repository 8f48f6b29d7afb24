"""The packages that influence a reader's result. Another version of them means reading again."""

from functools import cache
from importlib.metadata import version

TEXT = ("charset-normalizer",)
HTML = ("beautifulsoup4", "lxml", *TEXT)
LIBRARIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("csv", "json", "jsonl", "chat", "text"), TEXT),
    "dataset": ("datasets", "huggingface-hub", "pyarrow"),
    **dict.fromkeys(("html", "eml"), HTML),
    "docx": ("mammoth", *HTML),
    "pptx": ("python-pptx", *HTML),
    "xlsx": ("openpyxl", *HTML),
    "epub": ("defusedxml", *HTML),
    "markdown": ("markdown-it-py", *TEXT),
    "parquet": ("pyarrow",),
    "pdf": ("pdfplumber", "pdfminer.six"),
    "xml": ("defusedxml", *TEXT),
}  #: kind of file → packages; the rows of databases do not depend on a package


@cache
def libraries(kind: str) -> str:
    """Return the packages of a kind's reader, with their versions.

    Patch versions count, too: one of pdfplumber may bring another pdfminer, and reading again is cheap.
    """
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES.get(kind, ()))
