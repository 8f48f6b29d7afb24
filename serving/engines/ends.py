"""Where an answer ends that comes in pieces: before stop strings, and without the white space around it."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Passes text on until the first stop string, and holds back what may yet become one.

    Args:
        strings: the stop strings; empty ones are ignored.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [s for s in strings if s]
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Take a piece; returns what is certain to be before any stop string, and whether one was found."""
        text = self._held + text
        if found := [at for s in self._strings if (at := text.find(s)) >= 0]:
            self._held = ""
            return text[: min(found)], True
        keep = max((n for s in self._strings for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def rest(self) -> str:
        """Return the text that was held back. Call it after the last piece."""
        return self._held


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
