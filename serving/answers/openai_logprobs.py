"""The tokens of an answer and how likely each was, in the two forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.engines.base import TokenLogprob

LEAST = -9999.0  #: what OpenAI tells of a token that cannot be, since JSON has no infinity


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """As a conversation's answer has them: see `ChatLogprobs`. There are many, so no models are made of them."""
    content = [{**_likely(token), "top_logprobs": [_likely(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], most: int, offset: int = 0) -> dict[str, Any]:
    """As a text's continuation has them: see `CompletionLogprobs`.

    Args:
        tokens: of the answer, or of a piece of it.
        most: likeliest tokens that are asked for; the one that was taken is told besides.
        offset: characters of the answer before these tokens.
    """
    offsets = [offset + sum(len(before.text) for before in tokens[:n]) for n in range(len(tokens))]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_log(token) for token in tokens],
        "top_logprobs": [_by_text(token) for token in tokens] if most else None,
        "text_offset": offsets,
    }


def _by_text(token: TokenLogprob) -> dict[str, float]:
    """The likeliest in a token's place, of several with the same text the first, and the token itself."""
    likely: dict[str, float] = {}
    for other in token.top:
        half = "\ufffd" in other.text and other.text.encode() != other.data
        likely.setdefault(f"bytes:{str(other.data)[2:-1]}" if half else other.text, _log(other))
    return likely | {token.text: _log(token)}


def _likely(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": _log(token), "bytes": list(token.data)}


def _log(token: TokenLogprob) -> float:
    return token.logprob if token.logprob >= LEAST else LEAST  # so is NaN, which JSON does not have either
