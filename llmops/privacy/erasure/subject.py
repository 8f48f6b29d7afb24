"""Find a person in texts by an identifier: an e-mail address, a name, a customer number, a phone number.

What names a person is one rule for all who look (`llmops.data.text.identity`), so that what an erasure finds is what
collect keeps out from then on.
"""

import json
import re
from typing import Any

import polars as pl

from llmops.data.text import identity
from llmops.data.text.spellings import forms
from llmops.frame.errors import LlmopsError

MARK = "<FORGOTTEN>"  #: stands in place of a text that named the person, where the rest is kept
SHORTEST = 3  #: letters and digits of an identifier (`identity.letters`); a shorter one is in many other people's rows
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
        self.shape, self.plain = identity.identifier(identifier)
        if identity.letters(self.plain) < SHORTEST:
            raise LlmopsError(
                f"What is to be forgotten must have at least {SHORTEST} letters or digits, or two Chinese characters, "
                "as an e-mail address, a full name or a customer number has."
            )
        longest = max(self.plain.split(" "), key=len)
        self._likely = _PHONE if self.shape.kind == "phone" else re.escape(longest)
        words = r"\s+".join(map(re.escape, self.plain.split(" ")))
        self._words = re.compile(f"(?=({words}))")  # also where one place overlaps another

    def __repr__(self) -> str:
        return MARK

    def rows(self, texts: pl.Series) -> list[int]:
        """Return the positions of the texts that name the person, in order."""
        texts = texts.fill_null("")
        likely = texts.str.to_lowercase().str.contains(self._likely) | texts.str.contains(_FOLDED)
        return [int(row) for row in likely.arg_true() if self.named_in(texts[int(row)])]

    def named_in(self, text: str) -> bool:
        """Return whether the text names the person."""
        return any(map(self.stands_in, forms(text)))

    def stands_in(self, text: str) -> bool:
        """Return whether the text names the person as it stands."""
        lower = text.casefold()
        if self.shape.kind == "phone" or len(lower) != len(text):  # the places in lower case are others
            found = [place for _, places in identity.runs(text, [self.shape]) for place in places]
        else:
            found = [match.span(1) for match in self._words.finditer(lower)]
        return any(
            identity.compared(text[start:end].casefold(), self.shape) == self.plain
            and identity.whole(text, start, end, self.shape)
            for start, end in found
        )

    def named_in_location(self, location: str) -> bool:
        """Return whether a file is named after the person, its suffixes aside."""
        return any(map(self.named_in, identity.location_names(location)))

    def hide(self, value: Any) -> Any:
        """Return a value of JSON in which a mark stands in place of each text that names the person."""
        if isinstance(value, str):
            return MARK if self.named_in(value) else value
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        return {self.hide(k): self.hide(v) for k, v in value.items()} if isinstance(value, dict) else value

    def hide_lines(self, text: str) -> str:
        """Return the text of a file with such marks: for the values of JSON, or for lines."""
        if (value := parsed(text)) is not None:
            return json.dumps(self.hide(value), ensure_ascii=False, indent=1) + "\n"
        lines = text.splitlines()
        for at, line in enumerate(lines):
            if (value := parsed(line)) is not None:
                lines[at] = json.dumps(self.hide(value), ensure_ascii=False)
            elif self.named_in(line):
                lines[at] = MARK
            elif at and self.named_in(without_numbers(f"{lines[at - 1]}\n{line}")):  # broken over two lines
                lines[at - 1 : at + 1] = [MARK, MARK]
        return "".join(f"{line}\n" for line in lines)


def without_numbers(text: str) -> str:
    """Return a text without the numbers of JSON, which count and measure; JSON is all of it, or lines."""
    if parsed(text) is not None:
        return _STRING_OR_NUMBER.sub(lambda found: found[1] or "0", text)
    return text if "\n" not in text.rstrip("\n") else "".join(map(without_numbers, text.splitlines(keepends=True)))


def parsed(text: str) -> Any:
    """Return the JSON object or list that the text is; None if it is none."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except ValueError:
        return None
