"""Rendering of conversations by a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from llmops.prompts.clock import fix_clock

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[dict[str, str]]], *, ask: bool
) -> list[str]:
    """Return conversations as the chat template writes them; with `ask`, up to the start of the next assistant turn."""
    template = fix_clock(tokenizer.get_chat_template())
    texts = tokenizer.apply_chat_template(
        [list(turns) for turns in conversations], chat_template=template, add_generation_prompt=ask, tokenize=False
    )
    return cast(list[str], texts)
