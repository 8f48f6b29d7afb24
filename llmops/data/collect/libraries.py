"""The packages that influence a reader's result. Another version of them means reading again."""

from functools import cache
from importlib.metadata import version

from llmops.data.collect.readers.pdf import ocr

TEXT_LIBRARIES = ("charset-normalizer",)
HTML_LIBRARIES = ("beautifulsoup4", "lxml", *TEXT_LIBRARIES)
#: kinds that e-mails have attached
ATTACHED = (
    *("html", "markdown", "text", "pdf", "docx", "pptx", "xlsx", "epub"),
    *("odt", "odp", "ods", "rtf", "doc", "ppt", "xls"),
)
LIBRARIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("csv", "json", "jsonl", "chat", "text"), TEXT_LIBRARIES),
    "dataset": ("datasets", "huggingface-hub", "pyarrow", "pyyaml"),
    "html": HTML_LIBRARIES,
    "docx": ("mammoth", *HTML_LIBRARIES),
    "pptx": ("python-pptx", *HTML_LIBRARIES),
    "xlsx": ("openpyxl", *HTML_LIBRARIES),
    **dict.fromkeys(("odt", "odp", "ods", "rtf", "doc", "ppt", "xls"), ("xberg", "markdown-it-py", *HTML_LIBRARIES)),
    "epub": ("defusedxml", *HTML_LIBRARIES),
    "markdown": ("markdown-it-py", *TEXT_LIBRARIES),
    "parquet": ("pyarrow",),
    "pdf": ("pypdfium2",),
    "xml": ("defusedxml", *TEXT_LIBRARIES),
}  #: kind of file → packages; the rows of databases do not depend on a package
LIBRARIES["eml"] = tuple(dict.fromkeys(name for kind in ATTACHED for name in LIBRARIES[kind]))


@cache
def list_versions(kind: str) -> str:
    """Return the packages of a kind's reader, with their versions, and tesseract, which may come later.

    Patch versions count, too: one of pypdfium2 brings another PDFium, and reading again is cheap.
    """
    versions = [f"{name} {version(name)}" for name in LIBRARIES.get(kind, ())]
    return ", ".join([*versions, ocr.get_version()] if kind in ("pdf", "eml") else versions)
