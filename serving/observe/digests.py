"""Keyed digests of texts: equal texts are seen to be equal, and who has no key can not try what a text might have been.

The key is made of the secret that ids are signed with, so replicas that share it (`LLMOPS_SESSION_SECRET`) agree.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from serving.engines.base import Chat, Prompt, Question, Text

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
            case Chat() if len(prompt.messages) == 1:
                return self.text(prompt.messages[0].content)
            case Chat():
                return self.text(json.dumps([[message.role, message.content] for message in prompt.messages]))
        return self.text(json.dumps(prompt.ids))
