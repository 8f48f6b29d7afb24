"""Plain text and Markdown: a `# heading` is the question, what stands under it the answer."""

from __future__ import annotations

import re
from pathlib import Path

from llmops.data.readers.decode import read_text
from llmops.data.readers.origin import Items, Origin

_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*\s*")


def read(path: Path, origin: Origin) -> Items:
    """Yield one item per heading with text under it, or the whole file as one document if it has no heading."""
    text, origin = read_text(path, origin)
    if not text.strip():
        yield origin.dropped("file", "empty", "the file is empty")
        return
    sections: list[tuple[int, str, list[str]]] = [(1, "", [])]
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _HEADING.fullmatch(line):
            sections.append((number, match[1], []))
        else:
            sections[-1][2].append(line)
    for number, heading, lines in sections:
        if body := "\n".join(lines).strip():
            parts = {"question": heading, "answer": body} if heading else {"text": body}
            yield origin.document(f"line {number}", **parts)
