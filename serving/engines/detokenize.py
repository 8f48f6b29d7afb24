"""From the tokens of an answer to its text, piece by piece: before stop strings, and without white space around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"  #: a tokenizer writes it for a character whose last bytes are yet to come


class Detokenizer:
    """A decoder of tokens into pieces of text: no half characters, no special tokens, nothing after a stop string.

    Args:
        tokenizer: the model's tokenizer.
        stops: strings that end the answer.
        strip: leave out white space at both ends, like `llmops.model.base.generate.decode`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], strip: bool) -> None:
        self._tokenizer, self._stops, self._trim = tokenizer, StopFilter(stops), SpaceTrimmer() if strip else None
        self._previous_ids: list[int] = []  # decoded with the new ones, because neighbours change how a word is written
        self._previous_text = ""
        self._new_ids: list[int] = []  # tokens whose text is not complete
        self._stopped = False

    def feed(self, token: int) -> tuple[str, bool]:
        """Return the text that a token completes, and True if a stop string was found."""
        self._new_ids.append(token)
        text = self._decode([*self._previous_ids, *self._new_ids])
        if text.endswith(_INCOMPLETE):
            return "", False
        return self._emit(text)

    def flush(self) -> str:
        """Return the text that was held back, after the last token."""
        text = self._emit(self._decode([*self._previous_ids, *self._new_ids]))[0] if self._new_ids else ""
        return text if self._stopped else text + self._strip(self._stops.flush())

    def _emit(self, decoded: str) -> tuple[str, bool]:
        new_text = decoded[len(self._previous_text) :]
        self._previous_ids, self._new_ids = self._new_ids, []
        self._previous_text = self._decode(self._previous_ids)
        text, self._stopped = self._stops.feed(new_text)
        return self._strip(text), self._stopped

    def _strip(self, text: str) -> str:
        return self._trim.feed(text) if self._trim else text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class StopFilter:
    """A filter that passes text on until the first stop string. It holds back text that may become a stop string."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [s for s in strings if s]
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is certainly before any stop string, and True if a stop string was found."""
        text = self._held + text
        if starts := [start for s in self._strings if (start := text.find(s)) >= 0]:
            self._held = ""
            return text[: min(starts)], True
        keep = max((n for s in self._strings for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """Return the text that was held back, after the last piece."""
        return self._held


class SpaceTrimmer:
    """A filter that drops white space at the start, and holds back white space until other text follows."""

    def __init__(self) -> None:
        self._started = False
        self._space = ""

    def feed(self, text: str) -> str:
        """Return the text that is certainly inside the trimmed answer."""
        text = self._space + text if self._started else text.lstrip()
        trimmed = text.rstrip()
        self._started = self._started or bool(trimmed)
        self._space = text[len(trimmed) :]
        return trimmed
