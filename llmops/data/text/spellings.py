"""What a text says to somebody who reads it, however it is spelled: with escapes, invisible characters, emphasis."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from urllib.parse import unquote

from llmops.data.text.comparable import QUOTES

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_MOJIBAKE = re.compile(r"[^\x00-\x7F]{2}|[\x80-\x9FŒœÃÂ]")  #: by which ftfy knows it, and more
_EMPHASIS = re.compile(r"(?<!\w)(_{1,3})(?=[^\W_])(.{1,200}?)(?<=[^\s_])\1(?![\w@])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_VALUE = re.compile(r"(?<=[?&])[^\s=?&#]+=[^\s&#]+")  #: of a URL's query, with its name
_DOMAIN = re.compile(r"@[a-z\d-]+(?:\.[a-z\d-]+)+\.(?=\w)")


def forms(text: str) -> Iterator[str]:
    """The text as it is searched, and what it says once the escapes of HTML, JSON (also nested) and URLs are undone.

    Also with the spaces that are missing after an address.
    """
    plain = folded(text)
    yield plain
    texts = [plain]
    if "&" in text and (unescaped := folded(_without_entities(text))) != plain:
        texts.append(unescaped)
        yield unescaped
    texts += (spaced := [one for form in texts if (one := _spaced(form)) != form])
    yield from spaced
    for form in texts:
        for _ in range(3):  # a row's fields are JSON, a dropped row's content is JSON that holds them
            if "\\" not in form:
                break
            form = _ESCAPE.sub(_unescaped, form).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            yield folded(form)
    if "%" in text:
        yield from (folded(unquote(form)) for form in texts)


def folded(text: str) -> str:
    """The text without mojibake, invisible characters and emphasis, with straight quotes, in NFKC."""
    if not text.isascii():
        if _MOJIBAKE.search(text):
            from ftfy import fix_encoding

            text = fix_encoding(text)
        text = unicodedata.normalize("NFKC", text.translate(QUOTES))
        text = _invisible().sub("", text)
    elif _CONTROL.search(text):
        text = _CONTROL.sub("", text)
    return _EMPHASIS.sub(r"\2", text) if "_" in text else text


def characters(category: str) -> str:
    """All assigned characters of a category, for a class of a pattern; of C without line ends and tabs."""
    wanted = [
        code
        for code in (*range(0x1F000), *range(0xE0000, 0xE1000))
        if (found := unicodedata.category(chr(code)))[0] == category and found != "Cn" and chr(code) not in "\n\t\r"
    ]
    ranges: list[list[int]] = []
    for code in wanted:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _without_entities(text: str) -> str:
    for _ in range(3):  # more often than three times is somebody writing about HTML
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text


def _spaced(text: str) -> str:
    """The text with spaces for the `+` of URLs' queries, and between an address and a sentence that follows at once."""
    if "+" in text and "=" in text:
        text = _VALUE.sub(lambda value: value[0] if "@" in value[0] else value[0].replace("+", " "), text)
    if "@" in text:
        text = _DOMAIN.sub(lambda d: f"{d[0]} " if text[d.end() : d.end() + 2].istitle() else d[0], text)
    return text


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}.get(match[2], match[2])


@cache
def _invisible() -> re.Pattern[str]:
    return re.compile(f"[{characters('C')}]")
