"""Sentences of a text, by rules simple enough to hold for any Latin-script language."""

from __future__ import annotations

import re

# Full stops after these end no sentence, the second ones only before a number: "No. 5", but "He said no. I left."
_TITLES = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "st", "mt", "e.g", "i.e", "cf", "vs", "viz", "u.s", "u.k", "inc", "ltd"]
)
_COUNTS = frozenset(["no", "nos", "nr", "fig", "vol", "p", "pp", "ext", "tel", "approx", "ca", "art", "sec"])
_MONTHS = frozenset(["jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"])

# White space after a closing mark and before what can begin a sentence; an empty line; a list item on the next line.
_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[¿¡]*[^\W_a-z])|\s*\n\s*\n\s*|\s*\n(?=\s*(?:[-*•]|\d+[.)])\s)")
_LAST_WORD = re.compile(r"([\w.]+)\.$")


def sentences(text: str) -> list[str]:
    """The sentences of `text`; paragraphs and list items end one too. Joined they are the text without outer space."""
    return [text[start:end].strip() for start, end in _spans(text)]


def cut(text: str, count: int) -> str:
    """The first `count` sentences of `text`, as they stand in it; 0 means all."""
    if not count:
        return text
    spans = _spans(text)
    return text[: spans[count - 1][1]].strip() if count < len(spans) else text


def _spans(text: str) -> list[tuple[int, int]]:
    spans, start = [], 0
    for match in _END.finditer(text):
        closing = match[0].split(maxsplit=1)[0] if match[0].strip() else ""
        stop = match.start() + len(closing)
        if text[start:stop].strip() and not _continues(
            text[start : match.start()], match[0], text[match.end() : match.end() + 1]
        ):
            spans.append((start, stop))
            start = match.end()
    if text[start:].strip():
        spans.append((start, len(text)))
    return spans


def _continues(before: str, gap: str, following: str) -> bool:
    """Whether the full stop at the end of `before` belongs to an abbreviation, an initial or a list number."""
    match = _LAST_WORD.search(before)
    if "\n" in gap or not match:
        return False
    word = match[1].casefold()
    initial = len(word) == 1 and match[1].isupper()
    list_number = word.isdigit() and not before[: match.start()].strip()
    return initial or list_number or word in _TITLES or (following.isdigit() and word in _COUNTS | _MONTHS)
