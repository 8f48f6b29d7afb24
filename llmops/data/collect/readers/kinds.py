"""Which reader reads a source of which kind; `sql` is no kind of file and is read by `sql_rows`."""

from __future__ import annotations

from llmops.data.collect.readers import chat_turns, delimited, json_records, parquet_rows, plain_text, xml_records
from llmops.data.collect.readers.origin import Reader
from llmops.data.collect.readers.pages import html, markdown, pdf

READERS: dict[str, Reader] = {
    "csv": delimited.read,
    "parquet": parquet_rows.read,
    "json": json_records.read,
    "jsonl": json_records.read_lines,
    "xml": xml_records.read,
    "html": html.read,
    "pdf": pdf.read,
    "chat": chat_turns.read,
    "markdown": markdown.read,
    "text": plain_text.read,
}
