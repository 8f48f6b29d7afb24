"""What would end or fake a turn: the annotated text's own marks, and the control tokens of chat templates."""

from __future__ import annotations

import re

from llmops import prompts

_MARK = re.compile(rf"\[(?:Context|Question|Answer)\]|{re.escape(prompts.END)}|<\|\w+\|>")


def prompt_mark(text: str) -> str:
    """The first such mark in a text; empty if there is none."""
    match = _MARK.search(text)
    return match[0] if match else ""
