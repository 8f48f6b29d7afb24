"""What is told of the tokens of an answer: how likely the model found each, in step with the answer's text.

A caller gets less text than a model makes: white space at both ends, a stop string and what the guard holds back are
left out. What is not given as text is not told as a token either, so a token is told when all of its text has left.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from serving.engines.base import TokenLogprob

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x([0-9A-F]{2})>")  #: how vocabularies without byte-level tokens write a byte


@dataclass(frozen=True, slots=True)
class Odds:
    """What an engine knows of a token that it took."""

    logprob: float
    top: Sequence[tuple[int, float]] = ()  #: the likeliest tokens in its place, and their log-probabilities


class Aligned:
    """Holds tokens back until their text leaves. The texts of all that are added make one text."""

    def __init__(self) -> None:
        self._waiting: deque[TokenLogprob] = deque()
        self._text = ""  # that has left, of a token that has not all left

    def add(self, tokens: Iterable[TokenLogprob]) -> None:
        """Take what comes next."""
        self._waiting.extend(tokens)

    def leave(self, text: str) -> tuple[TokenLogprob, ...]:
        """Take text that leaves; gives the tokens whose text has all left with it."""
        told, self._text = [], self._text + text
        while self._waiting and self._text.startswith(self._waiting[0].text):
            told.append(self._waiting.popleft())
            self._text = self._text[len(told[-1].text) :]
        return tuple(told)

    def cut(self) -> tuple[TokenLogprob, ...]:
        """Once no more text leaves: the token that has left in part, without what might tell the rest of it."""
        if not (self._text and self._waiting and self._waiting[0].text.startswith(self._text)):
            return ()
        written = self._text.encode()
        data = self._waiting[0].data[: len(written)]
        if data.decode(errors="replace") != self._text:  # the rest is in the tokens that follow
            data = written
        return (replace(self._waiting[0], text=self._text, data=data, top=()),)


class Told:
    """Tells the tokens of an answer.

    A character whose bytes are in several tokens is the text of the first of them; the bytes are each one's own.

    Args:
        tokenizer: of the model.
        strip: white space at the start of the answer is left out.
        before: tokens that a tokenizer is to see before the answer's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strip: bool, before: Sequence[int] = ()) -> None:
        from serving.engines.detokenize import Pieces

        self._tokenizer, self._strip = tokenizer, strip
        self._pieces, self._aligned = Pieces(tokenizer, before), Aligned()
        self._new: list[tuple[int, Odds]] = []  # whose text is not complete

    def feed(self, token: int, odds: Odds) -> None:
        """Take a token."""
        self._new.append((token, odds))
        if (text := self._pieces.feed(token)) is not None:
            self._complete(text)

    def leave(self, text: str, last: bool = False) -> tuple[TokenLogprob, ...]:
        """Take text of the answer; gives the tokens that are told with it. After the `last` text there is no more."""
        if last and self._new:
            self._complete(self._pieces.rest())
        told = self._aligned.leave(text)
        return (*told, *self._aligned.cut()) if last else told

    def _complete(self, text: str) -> None:
        new, self._new = self._new, []
        data = [token_bytes(self._tokenizer, token) for token, _ in new]
        if b"".join(data).decode(errors="replace") != text:  # a tokenizer that writes a token by its neighbours
            data = [text.encode(), *[b""] * (len(new) - 1)]
        if self._strip:
            kept = text.lstrip()
            data[0] = data[0][len(text[: len(text) - len(kept)].encode()) :]
            text, self._strip = kept, not kept
        if text:  # else it is a control token, or white space that is left out
            texts = [text, *[""] * (len(new) - 1)]
            for part, own, (token, odds) in zip(texts, data, new, strict=True):
                taken = TokenLogprob(part, own, odds.logprob)
                top = (taken if other == token else self._alternative(other, log) for other, log in odds.top)
                self._aligned.add([replace(taken, top=tuple(top))])

    def _alternative(self, token: int, logprob: float) -> TokenLogprob:
        data = token_bytes(self._tokenizer, token)
        return TokenLogprob(data.decode(errors="replace"), data, logprob)


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes:
    """What a token writes behind others; of a control token the name."""
    text = str(tokenizer.decode([token, token]))[len(str(tokenizer.decode([token]))) :]
    if "\ufffd" not in text:
        return text.encode()
    written, known = str(tokenizer.convert_ids_to_tokens(token)), _bytes()
    if found := _BYTE.fullmatch(written):
        return bytes.fromhex(found[1])
    return bytes(known[c] for c in written) if known.keys() >= set(written) else text.encode()


@cache
def _bytes() -> dict[str, int]:
    """The bytes that the letters of a byte-level vocabulary stand for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
