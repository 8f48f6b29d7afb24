"""Find a person in texts by an identifier: an e-mail address, a name, a customer number, a phone number.

What names a person is one rule for all who look (`llmops.data.text.identity`), so that what an erasure finds is what
collect keeps out from then on.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any

import polars as pl

from llmops.data.text import identity
from llmops.data.text.spellings import forms
from llmops.errors import LlmopsError

MARK = "<FORGOTTEN>"  #: stands where the person was named, in texts that are kept
SHORTEST = (
    3  #: letters and digits of an identifier (`identity.letters`); a shorter one is a word of many other people's rows
)
_STRING_OR_NUMBER = re.compile(r'("(?:[^"\\]|\\.)*")|-?\d[\d.eE+-]*')
_PHONE = r"\d(?:\D{0,3}\d){6}"  #: in every text with a phone number
_FOLDED = r"[^\x20-\x7E\n\t]|[\\%&]"  #: in a text that says more, or less, than it seems to


class Subject:
    """A person's identifier. It prints as a mark, so that no message can give it away."""

    def __init__(self, identifier: str) -> None:
        """Prepare the search.

        Raises:
            LlmopsError: if the identifier is too short to name a person.
        """
        self._shape, self._plain = identity.identifier(identifier)
        if identity.letters(self._plain) < SHORTEST:
            raise LlmopsError(
                f"What is to be forgotten must have at least {SHORTEST} letters or digits, or two Chinese characters, "
                "as an e-mail address, a full name or a customer number has."
            )
        phone = self._shape.kind == "phone"
        self._likely = _PHONE if phone else re.escape(max(self._plain.split(" "), key=len))
        words = r"\s+".join(map(re.escape, self._plain.split(" ")))
        self._words = re.compile(f"(?=({words}))")  # also where one place overlaps another

    def __repr__(self) -> str:
        return MARK

    @property
    def plain(self) -> str:
        """The identifier as it is compared: two spellings of it are one."""
        return self._plain

    @property
    def shape(self) -> identity.Shape:
        """What is told of it so that texts can be searched for it without knowing it."""
        return self._shape

    def rows(self, texts: pl.Series) -> list[int]:
        """The positions of the texts that name the person, in order."""
        texts = texts.fill_null("")
        likely = texts.str.to_lowercase().str.contains(self._likely) | texts.str.contains(_FOLDED)
        return [int(row) for row in likely.arg_true() if self.named_in(texts[int(row)])]

    def named_in(self, text: str) -> bool:
        """Whether the text names the person."""
        return any(self._places(form) for form in forms(text))

    def named_in_bytes(self, data: bytes) -> bool:
        """Whether bytes of any kind, taken for UTF-8, name the person."""
        return bool(self._places(data.decode("utf-8", "replace")))

    def named_in_location(self, location: str) -> bool:
        """Whether a file is named after the person, its suffixes aside."""
        return any(map(self.named_in, identity.location_names(location)))

    def hide(self, text: str) -> str:
        """The text with a mark where it names the person.

        If the person is still named then, in escapes or with invisible characters, the mark alone is returned.
        """
        value = _parsed(text)
        if value is not None:
            return json.dumps(self._hidden(value), ensure_ascii=False)
        hidden = self._marked(text)
        return MARK if self.named_in(hidden) else hidden

    def hide_lines(self, text: str) -> str:
        """The text of a whole file with such marks: put into each value of JSON, else into each line."""
        value = _parsed(text)
        if value is not None:
            return json.dumps(self._hidden(value), ensure_ascii=False, indent=1) + "\n"
        lines: list[str] = []
        for values, some in groupby(text.splitlines(keepends=True), lambda line: _parsed(line) is not None):
            part = list(some)
            lines += part if values else self._marked("".join(part)).splitlines(keepends=True)
        for number in self.rows(pl.Series(lines, dtype=pl.String)):
            lines[number] = self.hide(lines[number].rstrip("\r\n")) + "\n"
        return "".join(lines)

    def _marked(self, text: str) -> str:
        pieces, done = list[str](), 0
        for start, end in self._places(text):
            if start >= done:
                pieces += [text[done:start], MARK]
                done = end
        return "".join([*pieces, text[done:]])

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each place where a text, as it stands, names the person."""
        lower, shape = text.casefold(), self._shape
        if shape.kind == "phone" or len(lower) != len(text):  # the places in lower case are others
            found = [place for _, places in identity.runs(text, [shape]) for place in places]
        else:
            found = [match.span(1) for match in self._words.finditer(lower)]
        return [
            (start, end)
            for start, end in found
            if identity.compared(text[start:end].casefold(), shape) == self._plain
            and identity.whole(text, start, end, shape)
        ]

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self._hidden(item) for item in value]
        if isinstance(value, dict):
            return {self.hide(key): self._hidden(item) for key, item in value.items()}
        return value


def without_numbers(text: str) -> str:
    """JSON without its numbers, which count and measure and so are nobody's: no mark stands for one; any other text."""
    if _parsed(text) is None:
        return text
    return _STRING_OR_NUMBER.sub(lambda found: found[1] or "0", text)


def _parsed(text: str) -> Any:
    """The JSON object or list that the text is; None if it is none."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except ValueError:
        return None
