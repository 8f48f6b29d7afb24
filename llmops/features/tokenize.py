"""Turn an example into token ids that fit the model: where it is too long the context gives way, never the answer."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmops.prompts import training_ids
from llmops.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example as the model sees it, unpadded."""

    id: str  #: the example's id, `input_id` in Feast
    token_ids: list[int]  #: prompt, answer and what ends it
    prompt_tokens: int  #: how many of them are the prompt: no loss on those


def tokenize(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> tuple[Tokens | None, bool]:
    """The tokens of one example, at most `max_tokens`, and whether its context was shortened for that.

    The context loses words from its end, as few as are needed. None if the example is too long even without one.
    """
    tokens = _tokens(tokenizer, example, example.context)
    if len(tokens.token_ids) <= max_tokens:
        return tokens, False
    words = example.context.split()

    def shortened(count: int) -> Tokens:
        return _tokens(tokenizer, example, " ".join(words[:count]))

    fit = bisect_right(range(len(words) + 1), max_tokens, key=lambda n: len(shortened(n).token_ids)) - 1
    return (shortened(fit), True) if fit >= 0 else (None, False)


def _tokens(tokenizer: PreTrainedTokenizerBase, example: Example, context: str) -> Tokens:
    ids, prompt = training_ids(tokenizer, example.question, example.answer, context)
    return Tokens(example.id, ids, prompt)
