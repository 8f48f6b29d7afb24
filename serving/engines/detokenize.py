"""Text of an answer while its tokens come in."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from serving.engines.ends import Stops, Trim

_HALF = "\ufffd"  #: what a tokenizer makes of a character whose last bytes are yet to come


class Pieces:
    """Turns tokens into pieces of text that end where a character does.

    Args:
        tokenizer: of the model.
        before: tokens that came before.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = [*before]  # the tokens before the new ones, since a tokenizer writes a word by its neighbours
        self._before = self._decode(self._ids) if before else ""  # their text
        self._new: list[int] = []  # tokens whose text is not complete

    def feed(self, token: int) -> str | None:
        """Take a token; returns the text that it completes, or None while the last character is a half one."""
        self._new.append(token)
        whole = self._decode([*self._ids, *self._new])
        return None if whole.endswith(_HALF) else self._piece(whole)

    def rest(self) -> str:
        """What is not complete, once no more tokens come."""
        return self._piece(self._decode([*self._ids, *self._new])) if self._new else ""

    def _piece(self, whole: str) -> str:
        text = whole[len(self._before) :]
        self._ids, self._new = self._new, []
        self._before = self._decode(self._ids)
        return text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class Writer:
    """Turns tokens into pieces of text: no half characters, no special tokens, nothing from a stop string on.

    Args:
        tokenizer: of the model.
        stops: strings that end the answer.
        strip: leave out white space at both ends, as `llmops.model.base.generate.decode` does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], strip: bool) -> None:
        self._pieces, self._stops, self._trim = Pieces(tokenizer), Stops(stops), Trim() if strip else None
        self._stopped = False

    def feed(self, token: int) -> tuple[str, bool]:
        """Take a token; returns the text that it completes, and whether a stop string was found."""
        text = self._pieces.feed(token)
        return ("", False) if text is None else self._pass_on(text)

    def end(self) -> str:
        """What was held back, once no more tokens come."""
        rest = self._pieces.rest()
        text = self._pass_on(rest)[0] if rest else ""
        return text if self._stopped else text + self._trimmed(self._stops.rest())

    def _pass_on(self, text: str) -> tuple[str, bool]:
        text, self._stopped = self._stops.feed(text)
        return self._trimmed(text), self._stopped

    def _trimmed(self, text: str) -> str:
        return self._trim.feed(text) if self._trim else text
