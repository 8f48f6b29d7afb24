"""Find a person in texts by an identifier: an e-mail address, a name, a customer number, a phone number.

An erasure and collect share the rules of a match (`llmops.data.text.identifiers`), so that collect refuses the rows
that an erasure finds.
"""

import json
import re
from typing import Any

import polars as pl

from llmops.data.text import identifiers
from llmops.data.text.spellings import list_spellings
from llmops.frame.errors import LlmopsError

MARK = "<FORGOTTEN>"  #: replaces a text that named the person
MIN_CHARACTERS = 3  #: by `identifiers.count_letters`; a shorter identifier is in many people's rows
_STRING_OR_NUMBER = re.compile(r'("(?:[^"\\]|\\.)*")|-?\d[\d.eE+-]*')
_PHONE = r"\d(?:\D{0,3}\d){6}"  #: in every text with a phone number
_FOLDED = r"[^\x20-\x7E\n\t]|[\\%&]"  #: in a text that may spell a name with escapes or unusual characters


class Subject:
    """A person's identifier. It prints as a mark, so that no message can disclose it."""

    def __init__(self, identifier: str) -> None:
        """Prepare the search.

        Raises:
            LlmopsError: if the identifier is too short to name a person.
        """
        self.shape, self.plain = identifiers.parse_identifier(identifier)
        if identifiers.count_letters(self.plain) < MIN_CHARACTERS:
            raise LlmopsError(
                f"The subject must have at least {MIN_CHARACTERS} letters or digits, or two Chinese characters, as an "
                "e-mail address, a full name or a customer number has."
            )
        longest = max(self.plain.split(" "), key=len)
        self._likely = _PHONE if self.shape.kind == "phone" else re.escape(longest)
        words = r"\s+".join(map(re.escape, self.plain.split(" ")))
        self._words = re.compile(f"(?=({words}))")  # finds overlapping matches, too

    def __repr__(self) -> str:
        return MARK

    def find_rows(self, texts: pl.Series) -> list[int]:
        """Return the positions of the texts that name the person, in order."""
        texts = texts.fill_null("")
        likely = texts.str.to_lowercase().str.contains(self._likely) | texts.str.contains(_FOLDED)
        return [int(row) for row in likely.arg_true() if self.is_named_in(texts[int(row)])]

    def is_named_in(self, text: str) -> bool:
        """Return True if the text names the person in any spelling."""
        return any(map(self.is_spelled_in, list_spellings(text)))

    def is_spelled_in(self, text: str) -> bool:
        """Return True if the text names the person in this spelling."""
        lower = text.casefold()
        if self.shape.kind == "phone" or len(lower) != len(text):  # positions in `lower` differ
            found = [span for _, spans in identifiers.find_possible_spans(text, [self.shape]) for span in spans]
        else:
            found = [match.span(1) for match in self._words.finditer(lower)]
        return any(
            identifiers.normalize_span(text[start:end].casefold(), self.shape) == self.plain
            and identifiers.is_whole(text, start, end, self.shape)
            for start, end in found
        )

    def is_named_in_location(self, location: str) -> bool:
        """Return True if a file is named after the person, apart from its suffixes."""
        return any(map(self.is_named_in, identifiers.list_location_names(location)))

    def hide(self, value: Any) -> Any:
        """Return a JSON value in which each text that names the person is replaced by a mark."""
        if isinstance(value, str):
            return MARK if self.is_named_in(value) else value
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        return {self.hide(k): self.hide(v) for k, v in value.items()} if isinstance(value, dict) else value

    def hide_lines(self, text: str) -> str:
        """Return the text of a file in which JSON values, or lines, that name the person are replaced by marks."""
        if (value := parse_json(text)) is not None:
            return json.dumps(self.hide(value), ensure_ascii=False, indent=1) + "\n"
        lines = text.splitlines()
        for at, line in enumerate(lines):
            if (value := parse_json(line)) is not None:
                lines[at] = json.dumps(self.hide(value), ensure_ascii=False)
            elif self.is_named_in(line):
                lines[at] = MARK
            elif at and self.is_named_in(remove_numbers(f"{lines[at - 1]}\n{line}")):  # broken over two lines
                lines[at - 1 : at + 1] = [MARK, MARK]
        return "".join(f"{line}\n" for line in lines)


def remove_numbers(text: str) -> str:
    """Return a text without the numbers of JSON. The text is JSON as a whole, or some lines are."""
    if parse_json(text) is not None:
        return _STRING_OR_NUMBER.sub(lambda found: found[1] or "0", text)
    return text if "\n" not in text.rstrip("\n") else "".join(map(remove_numbers, text.splitlines(keepends=True)))


def parse_json(text: str) -> Any:
    """Return the JSON object or list in a text; None if it is something else."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except ValueError:
        return None
