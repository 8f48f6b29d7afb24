"""Find a person in texts by an identifier: an e-mail address, a name, a customer number, a phone number.

A text is looked at as cleaning leaves it (`repair`), without upper case, line breaks and invisible characters, and also
without the escapes of JSON and URLs, so that a person is found in a raw row and in a cleaned one alike. Only whole
words count: `ana@example.org` is in neither `diana@example.org` nor `ana@example.org.uk`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import polars as pl

from llmops.data.clean.repair import repair
from llmops.errors import LlmopsError

MARK = "<FORGOTTEN>"  #: stands where the person was named, in texts that are kept
SHORTEST = 3  #: letters and digits of an identifier; a shorter one is a word of many other people's rows

_INVISIBLE = r"[\p{C}--[\n\t\r]]"
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PHONE = re.compile(r"\+?[\d\s().\-/]+")
_BETWEEN = r"[\s().\-/]{0,3}"  #: what may stand between two digits of a phone number


class Subject:
    """A person's identifier. It prints as a mark, so that no message can give it away."""

    def __init__(self, identifier: str) -> None:
        """Prepare the search.

        Raises:
            LlmopsError: if the identifier is too short to name a person.
        """
        self._plain = _plain(identifier)
        if sum(character.isalnum() for character in self._plain) < SHORTEST:
            raise LlmopsError(
                f"What is to be forgotten must have at least {SHORTEST} letters or digits, "
                "as an e-mail address, a full name or a customer number has."
            )
        parts, self._key = _parts(self._plain)
        mail = "@" in self._plain
        before = r"(?<!\w)(?<!\w-)(?<!\d[.,])" + (r"(?<!\w[.+])" if mail else "")
        after = r"(?!\w)(?!-\w)(?![.,]\d)" + (r"(?!\.\w)" if mail else "")
        self._pattern = re.compile(f"{before}(?:{parts}){after}", re.IGNORECASE)

    def __repr__(self) -> str:
        return MARK

    @property
    def plain(self) -> str:
        """The identifier as it is compared: two spellings of it are one."""
        return self._plain

    def rows(self, texts: pl.Series) -> list[int]:
        """The positions of the texts that name the person, in order."""
        texts = repair(texts.fill_null("")).str.replace_all(_INVISIBLE, "")
        escaped = texts.str.contains(r"[\\%]")
        likely = escaped | texts.str.to_lowercase().str.contains(self._key, literal=True)
        return [int(row) for row in likely.arg_true() if any(map(self._pattern.search, _forms(texts[int(row)])))]

    def named_in(self, text: str) -> bool:
        """Whether the text names the person."""
        return bool(self.rows(pl.Series([text], dtype=pl.String)))

    def named_in_bytes(self, data: bytes) -> bool:
        """Whether bytes of any kind, taken for UTF-8, name the person."""
        text = data.decode("utf-8", "replace")
        return self._key in text.lower() and bool(self._pattern.search(text))

    def named_in_location(self, location: str) -> bool:
        """Whether a file is named after the person, its suffixes aside."""
        stem = location.rpartition("/")[2]
        names = {location, *(part for part in location.split("/")), stem.rpartition(".")[0]}
        return any(self.named_in(name) or self.named_in(re.sub(r"[_+]", " ", name)) for name in names if name)

    def hide(self, text: str) -> str:
        """The text with a mark where it names the person.

        If the person is still named then, in escapes or with invisible characters, the mark alone is returned.
        """
        value = _parsed(text)
        if value is not None:
            return json.dumps(self._hidden(value), ensure_ascii=False)
        hidden = self._pattern.sub(MARK, text)
        return MARK if self.named_in(hidden) else hidden

    def hide_lines(self, text: str) -> str:
        """The text of a whole file with such marks: put into each value if it is JSON, else into each line."""
        value = _parsed(text)
        if value is not None:
            return json.dumps(self._hidden(value), ensure_ascii=False, indent=1) + "\n"
        lines = self._pattern.sub(MARK, text).splitlines(keepends=True)
        for number in self.rows(pl.Series(lines, dtype=pl.String)):
            lines[number] = self.hide(lines[number].rstrip("\r\n")) + "\n"
        return "".join(lines)

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self._hidden(item) for item in value]
        if isinstance(value, dict):
            return {self.hide(key): self._hidden(item) for key, item in value.items()}
        return value


def _parsed(text: str) -> Any:
    """The JSON object or list that the text is; None if it is none."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except ValueError:
        return None


def _plain(identifier: str) -> str:
    text = str(repair(pl.Series([identifier])).str.replace_all(_INVISIBLE, "")[0])
    return " ".join(text.lower().split())


def _parts(plain: str) -> tuple[str, str]:
    """The pattern of an identifier, and letters that every match of it holds, in lower case (none: empty)."""
    digits = re.sub(r"\D", "", plain)
    if len(digits) >= 7 and _PHONE.fullmatch(plain) and not plain.isdigit():
        return (r"\+?" if plain.startswith("+") else "") + r"\(?" + _BETWEEN.join(digits), ""
    words = r"\s+".join(re.escape(word) for word in plain.split(" "))
    return words, max(plain.split(" "), key=len)


def _forms(text: str) -> Iterator[str]:
    """The text, and what it says once the escapes of JSON (also nested) and URLs are taken out."""
    yield text
    form = text
    for _ in range(3):  # a row's fields are JSON, a dropped row's content is JSON that holds them
        if "\\" not in form:
            break
        form = _ESCAPE.sub(_unescaped, form).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        yield form
    if "%" in text:
        yield unquote(text)


def _unescaped(match: re.Match[str]) -> str:
    if match[1]:
        return chr(int(match[1], 16))
    return {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}.get(match[2], match[2])
