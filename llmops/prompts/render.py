"""What a chat template writes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from jinja2 import Environment

from llmops.prompts.clock import without_clock

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[dict[str, Any]]],
    *,
    ask: bool,
    tools: Sequence[dict[str, Any]] = (),
) -> list[str]:
    """Conversations as the chat template writes them; with `ask`, up to where the next assistant turn begins.

    Args:
        tokenizer: with its template.
        conversations: turns, in the form of transformers.
        ask: see above.
        tools: that the model is shown in each.
    """
    template = without_clock(template_of(tokenizer, tools))
    texts = tokenizer.apply_chat_template(
        [list(turns) for turns in conversations],
        tools=list(tools) or None,
        chat_template=template,
        add_generation_prompt=ask,
        tokenize=False,
    )
    return cast(list[str], texts)


def template_of(tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, Any]] = ()) -> str:
    """The chat template, or the one that a model has for tools, where there are some."""
    return tokenizer.get_chat_template(tools=list(tools) or None)


@lru_cache
def goes_by(template: str, word: str) -> bool:
    """Whether a chat template goes by this variable."""
    tokens = [token for token in Environment().lex(template) if token[1] != "whitespace"]
    return any(kind == "name" and text == word and before[2] != "." for before, (_, kind, text) in pairwise(tokens))
