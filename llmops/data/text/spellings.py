"""The readable spellings of a text: with escapes, invisible characters and emphasis resolved."""

import html
import re
from collections.abc import Iterator
from urllib.parse import unquote

from ftfy import fix_encoding

from llmops.data.text.normalization import normalize_text

_MOJIBAKE = re.compile(r"[^\x00-\x7F]{2}|[\x80-\x9FŒœÃÂ]")  #: matches all mojibake that ftfy knows, and more
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_VALUE = re.compile(r"(?<=[?&])[^\s=?&#]+=[^\s&#]+")  #: name and value in a URL's query
_DOMAIN = re.compile(r"@[a-z\d-]+(?:\.[a-z\d-]+)+\.(?=\w)")


def list_spellings(text: str) -> Iterator[str]:
    """Yield the repaired text, and its spellings without the escapes of HTML, (nested) JSON and URLs.

    If no space separates an address from the next sentence, a spelling with that space follows, too.
    """
    plain = _repair(text)
    yield plain
    texts = [plain]
    if "&" in text and (unescaped := _repair(_unescape_entities(text))) != plain:
        texts.append(unescaped)
        yield unescaped
    texts += (spaced := [new for old in texts if (new := _restore_spaces(old)) != old])
    yield from spaced
    for plain in texts:
        for _ in range(3):  # fields of a row are JSON; a dropped row's content is JSON that contains them
            if "\\" not in plain:
                break
            plain = _ESCAPE.sub(_resolve_escape, plain)
            plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            yield _repair(plain)
    if "%" in text:
        yield from (_repair(unquote(plain)) for plain in texts)


def repair_and_normalize(text: str, *, keep_case: bool = False, keep_spaces: bool = False) -> str:
    """Return the normalized text as a reader sees it, without mojibake and emphasis.

    `keep_case` and `keep_spaces` are passed to `normalize_text`.
    """
    repaired = fix_encoding(text) if _MOJIBAKE.search(text) else text
    return normalize_text(repaired, keep_case=keep_case, keep_spaces=keep_spaces, visible_only=True)


def _repair(text: str) -> str:
    return repair_and_normalize(text, keep_case=True, keep_spaces=True)


def _unescape_entities(text: str) -> str:
    for _ in range(3):  # text that is escaped more often is about HTML
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text


def _restore_spaces(text: str) -> str:
    """Replace `+` in URLs' queries by spaces, and separate an address from a sentence that follows directly."""
    if "+" in text and "=" in text:
        text = _VALUE.sub(lambda value: value[0] if "@" in value[0] else value[0].replace("+", " "), text)
    if "@" in text:
        text = _DOMAIN.sub(lambda d: f"{d[0]} " if text[d.end() : d.end() + 2].istitle() else d[0], text)
    return text


def _resolve_escape(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}.get(match[2], match[2])
