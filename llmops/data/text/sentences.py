"""Sentences of a text, by rules that are simple enough to hold for most languages.

Each script has its marks: the full stop, `।` (Hindi), `؟` and `۔` (Arabic, Urdu), `።` (Amharic), `։` (Armenian), and
`。` (Chinese, Japanese), which no white space follows. Thai has none, so that its text is one sentence a paragraph. The
abbreviations are mostly English ones.

The library `sentencex` (1.0.32) is two to three times as fast and knows other languages' abbreviations. But it ends no
sentence with "no." ("No. Antibiotics do not work against viruses.") nor before two spaces, and ends one after "v1." in
"v1. and" and after a list's "1.": of 210 answers of public health agencies it splits 5 in another way, 4 of them worse.
pysbd (17) and spaCy's sentencizer (6) split more of them in another way, and are far slower.
"""

from __future__ import annotations

import re

# Full stops after these end no sentence, the second ones only before a number: "No. 5", but "He said no. I left."
_TITLES = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "st", "mt", "e.g", "i.e", "cf", "vs", "viz", "u.s", "u.k", "inc", "ltd"]
)
_COUNTS = frozenset(["no", "nos", "nr", "fig", "vol", "p", "pp", "ext", "tel", "approx", "ca", "art", "sec"])
_MONTHS = frozenset(["jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"])

_CLOSING, _OPENING = r"[\"'”’)\]」』】]*", r"[\"'“‘(\[¿¡「『【]*"
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters
_END = re.compile(
    "|".join(
        [
            rf"(?<=[.!?…।॥؟۔።։]){_CLOSING}\s+(?={_OPENING}[^\W_a-z])",  # before what can begin a sentence
            rf"(?<=[。！？]){_CLOSING}\s*(?={_OPENING}\w)",
            rf"(?<=[!?]){_CLOSING}(?={_OPENING}[{_UNSPACED}])",  # what cleaning (NFKC) makes of full-width marks
            r"\s*\n\s*\n\s*",  # an empty line
            r"\s*\n(?=\s*(?:[-*•]|\d+[.)])\s)",  # before a list item
        ]
    )
)
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
