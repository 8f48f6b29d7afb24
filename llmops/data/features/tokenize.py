"""Tokenisation of examples. If one is too long for the model, its context is shortened, never the answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.frame.records import Example
from llmops.prompts import encode_example, encode_examples
from llmops.prompts.encoder import EncoderFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of one example, without padding.

    For an encoder they are those of the text, and the number of its label as the only answer token.
    """

    id: str  #: the example's id, `input_id` in Feast
    token_ids: list[int]  #: prompt, answer and end
    prompt_tokens: int  #: length of the prompt, which has no loss


def tokenize(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> tuple[Tokens | None, bool]:
    """Return the tokens of one example. See `tokenize_all`."""
    return tokenize_all(tokenizer, [example], max_tokens)[0]


def tokenize_all(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_tokens: int
) -> list[tuple[Tokens | None, bool]]:
    """Return each example's tokens, at most `max_tokens`, and True if its context was shortened for that.

    A context loses as few words as necessary from its end. None if the example is too long without context.
    """
    found = encode_examples(tokenizer, [(e.question, e.answer, e.context) for e in examples])
    return [
        (Tokens(example.id, ids, prompt), False)
        if len(ids) <= max_tokens
        else _shorten_context(tokenizer, example, max_tokens)
        for example, (ids, prompt) in zip(examples, found, strict=True)
    ]


def tokenize_labelled(reader: EncoderFormat, examples: Sequence[Example]) -> list[tuple[Tokens | None, bool]]:
    """Return the tokens of each example for an encoder, and True if its text was cut; None if its label is unknown."""
    numbers = {label: number for number, label in enumerate(reader.labels)}
    encoded = reader.encode([(example.question, example.context) for example in examples])
    return [
        (Tokens(e.id, [*ids, numbers[e.answer]], len(ids)) if e.answer in numbers else None, cut)
        for e, (ids, cut) in zip(examples, encoded, strict=True)
    ]


def _shorten_context(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int
) -> tuple[Tokens | None, bool]:
    words = example.context.split()

    def tokenize_with(count: int) -> tuple[list[int], int]:
        return encode_example(tokenizer, example.question, example.answer, " ".join(words[:count]))

    fit = bisect_right(range(len(words) + 1), max_tokens, key=lambda n: len(tokenize_with(n)[0])) - 1
    return (Tokens(example.id, *tokenize_with(fit)), True) if fit >= 0 else (None, False)
