"""Keyed digests of texts: equal texts are seen to be equal, and who has no key can not try what a text might have been.

The key is made of the secret that ids are signed with, so replicas that share it (`LLMOPS_SESSION_SECRET`) agree.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from itertools import count

from serving.engines.base import Chat, Message, Prompt, Question, Text, ToolCall

_DIGITS = 32  #: in hex, of SHA-256


class Digests:
    """Makes them.

    Args:
        secret: of the app.
    """

    def __init__(self, secret: bytes) -> None:
        self._keyed = hmac.new(hmac.digest(secret, b"digests of texts", hashlib.sha256), digestmod=hashlib.sha256)

    def text(self, text: str) -> str:
        """Of a text."""
        made = self._keyed.copy()  # in one call, `hmac.digest` would give other threads their turn for each
        made.update(text.encode("utf-8", "surrogatepass"))
        return made.hexdigest()[:_DIGITS]

    def prompt(self, prompt: Prompt) -> str:
        """Of a prompt: of its text, whichever route it came by; a question's context does not count."""
        match prompt:
            case Question() | Text():
                return self.text(prompt.text)
            case Chat() if len(prompt.messages) == 1 and not prompt.knows_tools:
                return self.text(prompt.messages[0].content)
            case Chat():
                turns = _turns(prompt.messages)
                return self.text(json.dumps([*turns, prompt.tools] if prompt.tools else turns))
        return self.text(json.dumps(prompt.ids))

    def answer(self, text: str, calls: Sequence[ToolCall]) -> str:
        """Of an answer: of its text and what it calls, whatever ids the calls have."""
        return self.text(json.dumps([text, _named(calls)]) if calls else text)


def _turns(messages: Sequence[Message]) -> list[list[object]]:
    """Of a conversation, with the number of the call that a result is of: ids are new in each."""
    turns: list[list[object]] = []
    numbers: dict[str, int] = {}
    number = count(1)
    for message in messages:
        numbers |= {call.id: next(number) for call in message.calls}
        calls = [_named(message.calls)] if message.calls else []
        result = [numbers.get(message.call.id, 0)] if message.call else []
        turns.append([message.role, message.content, *calls, *result])
    return turns


def _named(calls: Sequence[ToolCall]) -> list[list[str]]:
    return [[call.name, call.arguments] for call in calls]
