"""A text without the white space at its ends, while it comes in pieces."""

from __future__ import annotations


class Trim:
    """Passes text on without white space at the start, and holds white space back until something follows."""

    def __init__(self) -> None:
        self._begun = False
        self._space = ""

    def feed(self, text: str) -> str:
        """Take a piece; returns what is certain to be within the trimmed text."""
        text = self._space + text if self._begun else text.lstrip()
        kept = text.rstrip()
        self._begun = self._begun or bool(kept)
        self._space = text[len(kept) :]
        return kept
