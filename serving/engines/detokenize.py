"""Text of an answer while its tokens come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving.engines.ends import Stops, Trim

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF = "\ufffd"  #: what a tokenizer makes of a character whose last bytes are yet to come


class Writer:
    """Turns tokens into pieces of text: no half characters, no special tokens, nothing from a stop string on.

    Args:
        tokenizer: of the model.
        stops: strings that end the answer.
        strip: leave out white space at both ends, as `llmops.model.base.generate.decode` does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], strip: bool) -> None:
        self._tokenizer, self._stops, self._trim = tokenizer, Stops(stops), Trim() if strip else None
        self._ids: list[int] = []  # the tokens before the new ones, since a tokenizer writes a word by its neighbours
        self._before = ""  # their text
        self._new: list[int] = []  # tokens whose text is not complete
        self._stopped = False

    def feed(self, token: int) -> tuple[str, bool]:
        """Take a token; returns the text that it completes, and whether a stop string was found."""
        self._new.append(token)
        text = self._decode([*self._ids, *self._new])
        if text.endswith(_HALF):
            return "", False
        return self._pass_on(text)

    def end(self) -> str:
        """Return the text that was held back. Call it after the last token."""
        text = self._pass_on(self._decode([*self._ids, *self._new]))[0] if self._new else ""
        return text if self._stopped else text + self._trimmed(self._stops.rest())

    def _pass_on(self, whole: str) -> tuple[str, bool]:
        text = whole[len(self._before) :]
        self._ids, self._new = self._new, []
        self._before = self._decode(self._ids)
        text, self._stopped = self._stops.feed(text)
        return self._trimmed(text), self._stopped

    def _trimmed(self, text: str) -> str:
        return self._trim.feed(text) if self._trim else text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
