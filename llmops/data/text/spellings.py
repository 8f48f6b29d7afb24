"""The readable forms of a text: with escapes, invisible characters and emphasis resolved."""

import html
import re
from collections.abc import Iterator
from urllib.parse import unquote

from ftfy import fix_encoding

from llmops.data.text.comparable import comparable

_MOJIBAKE = re.compile(r"[^\x00-\x7F]{2}|[\x80-\x9FŒœÃÂ]")  #: matches all mojibake that ftfy knows, and more
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_VALUE = re.compile(r"(?<=[?&])[^\s=?&#]+=[^\s&#]+")  #: name and value in a URL's query
_DOMAIN = re.compile(r"@[a-z\d-]+(?:\.[a-z\d-]+)+\.(?=\w)")


def forms(text: str) -> Iterator[str]:
    """Yield the text as it is searched, and its forms without the escapes of HTML, (nested) JSON and URLs.

    They include forms with missing spaces after an address restored.
    """
    plain = _read(text)
    yield plain
    texts = [plain]
    if "&" in text and (unescaped := _read(_without_entities(text))) != plain:
        texts.append(unescaped)
        yield unescaped
    texts += (spaced := [one for form in texts if (one := _spaced(form)) != form])
    yield from spaced
    for form in texts:
        for _ in range(3):  # fields of a row are JSON; a dropped row's content is JSON that contains them
            if "\\" not in form:
                break
            form = _ESCAPE.sub(_unescaped, form).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            yield _read(form)
    if "%" in text:
        yield from (_read(unquote(form)) for form in texts)


def read(text: str, *, case: bool = False, spaces: bool = False) -> str:
    """Return the text as a reader sees it, without mojibake and emphasis; `case` and `spaces` as in `comparable`."""
    repaired = fix_encoding(text) if _MOJIBAKE.search(text) else text
    return comparable(repaired, case=case, spaces=spaces, repaired=True)


def _read(text: str) -> str:
    return read(text, case=True, spaces=True)


def _without_entities(text: str) -> str:
    for _ in range(3):  # text that is escaped more often is about HTML
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    return text


def _spaced(text: str) -> str:
    """Replace `+` in URLs' queries by spaces, and separate an address from a sentence that follows directly."""
    if "+" in text and "=" in text:
        text = _VALUE.sub(lambda value: value[0] if "@" in value[0] else value[0].replace("+", " "), text)
    if "@" in text:
        text = _DOMAIN.sub(lambda d: f"{d[0]} " if text[d.end() : d.end() + 2].istitle() else d[0], text)
    return text


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}.get(match[2], match[2])
