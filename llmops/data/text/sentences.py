"""Splitting of text into sentences, by simple rules for most languages.

Each script has its marks: the full stop, `।` (Hindi), `؟` and `۔` (Arabic, Urdu), `።` (Amharic), `։` (Armenian), and
`。` (Chinese, Japanese), which is not followed by white space. Thai has none, so each paragraph is one sentence. No
sentence begins with a small letter. `abbreviations` lists abbreviations that do not end a sentence.

The library `sentencex` (1.0.32) is two to three times as fast and knows more abbreviations. But it ends no sentence
with "no." ("No. Antibiotics do not work against viruses.") nor before two spaces, and ends one after "v1." in "v1. and"
and after a list's "1.". It splits 5 of 210 answers of public health agencies differently, 4 of them worse. pysbd (17)
and spaCy's sentencizer (6) split more of them differently, and are far slower.
"""

import re

import regex

from llmops.data.text.abbreviations import ABBREVIATIONS, NUMBER_ABBREVIATIONS

_CLOSING, _OPENING = r"[\"'”’)\]」』】]*", r"[\"'“‘(\[¿¡「『【]*"
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana and Chinese characters
_END = re.compile(
    "|".join(
        [
            rf"(?<=[.!?…।॥؟۔።։]){_CLOSING}\s+(?={_OPENING}[^\W_a-z])",  # before a possible beginning of a sentence
            rf"(?<=[。！？]){_CLOSING}\s*(?={_OPENING}\w)",
            rf"(?<=[!?]){_CLOSING}(?={_OPENING}[{_UNSPACED}])",  # full-width marks after cleaning (NFKC)
            r"\s*\n\s*\n\s*",  # an empty line
            r"\s*\n(?=\s*(?:[-*•]|\d+[.)])\s)",  # before a list item
        ]
    )
)
_LOOKAHEAD_CHARS = 100  #: characters after a cut that decide if a sentence ends there
_WHITE = re.compile(r"\s+")
_CHARACTER = regex.compile(r"\X")
_LAST_WORD = re.compile(r"([\w.º]+)\.$")
_LETTERS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")  # an initial, `z.B`, `S.p.A`
_HOURS = frozenset(["a.m", "p.m"])  # these often end a sentence
# German months, which follow the number of a day.
_MONTH = re.compile(r"(?:Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)\b")
_NEXT = re.compile(rf"{_OPENING}(\w?)")


def split_sentences(text: str) -> list[str]:
    """Return the sentences of `text`. Paragraphs and list items end one, too."""
    return [text[start:end].strip() for start, end in find_sentence_spans(text)]


def take_sentences(text: str, count: int) -> str:
    """Return the first `count` sentences of `text`, unchanged; 0 means all."""
    if not count:
        return text
    found = find_sentence_spans(text)
    return text[: found[count - 1][1]].strip() if count < len(found) else text


def truncate_text(text: str, max_chars: int) -> str:
    """Return the beginning of `text` up to the last sentence's end within `max_chars` characters.

    If that would lose more than half of `max_chars`, it ends with a word, or (for scripts without spaces) with a
    visible character (UAX #29: a letter with its marks, an emoji).
    """
    if len(text) <= max_chars:
        return text
    head = text[: max_chars + _LOOKAHEAD_CHARS]
    sentence = max((end for _, end in find_sentence_spans(head) if end <= max_chars), default=0)
    word = max((space.start() for space in _WHITE.finditer(head[: max_chars + 1])), default=0)
    for end in (sentence, word):
        if 2 * end > max_chars:
            return text[:end].strip()
    return text[: max((c.end() for c in _CHARACTER.finditer(head) if c.end() <= max_chars), default=0)].strip()


def find_sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where each sentence of `text` begins and ends."""
    found, start = [], 0
    for match in _END.finditer(text):
        closing = match[0].split(maxsplit=1)[0] if match[0].strip() else ""
        stop = match.start() + len(closing)
        if text[start:stop].strip() and not _is_continued(
            text[start : match.start()], match[0], text[match.end() :][:_LOOKAHEAD_CHARS]
        ):
            found.append((start, stop))
            start = match.end()
    if text[start:].strip():
        found.append((start, len(text)))
    return found


def _is_continued(before: str, gap: str, following: str) -> bool:
    """Return True if the sentence continues in `following`: the stop belongs to an abbreviation, initial or number."""
    if "\n" in gap:
        return False
    begins = _NEXT.match(following)
    if begins and begins[1].islower():
        return True
    if not (match := _LAST_WORD.search(before)):
        return False
    word = match[1].casefold()
    if word.isdigit():
        return not before[: match.start()].strip() or bool(_MONTH.match(following))
    letters = bool(_LETTERS.fullmatch(match[1])) and word not in _HOURS
    return letters or word in ABBREVIATIONS or (following[:1].isdigit() and word in NUMBER_ABBREVIATIONS)
