"""The prompts and answers of one request: held until its event, its features and its trace are made, and no longer."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field

from llmops.registry.version import Version
from serving.engines.base import Chat, FinishReason, Prompt, Question, Text

_DIGITS = 32  #: in hex, of SHA-256


@dataclass(slots=True)
class Given:
    """One answer. Times are nanoseconds of `time.perf_counter_ns`; 0: it has not come so far."""

    prompt: Prompt
    version: Version
    begun: int = 0  #: by the engine
    first: int = 0  #: piece of the answer
    ended: int = 0
    texts: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None  #: None: it is not complete

    @property
    def text(self) -> str:
        """Return the text of the answer so far."""
        return "".join(self.texts)


Exchange = list[Given]  #: the answers of one request, in their order


def asked_of(prompt: Prompt) -> str:
    """Return the question, the last message of a conversation, or the text of a prompt; empty for token ids."""
    match prompt:
        case Question() | Text():
            return prompt.text
        case Chat():
            return prompt.messages[-1].content
    return ""


def context_of(prompt: Prompt) -> str:
    """Return the context of a question, or the earlier messages of a conversation."""
    match prompt:
        case Question():
            return prompt.context
        case Chat():
            return "\n".join(f"{message.role}: {message.content}" for message in prompt.messages[:-1])
    return ""


class Digests:
    """Keyed digests of texts: equal texts have equal ones, and nobody without the key can try what a text might be.

    The key is made of the secret that ids are signed with, so replicas that share it (`LLMOPS_SESSION_SECRET`) agree.
    """

    def __init__(self, secret: bytes) -> None:
        self._keyed = hmac.new(hmac.digest(secret, b"digests of texts", hashlib.sha256), digestmod=hashlib.sha256)

    def text(self, text: str) -> str:
        """Return the digest of a text."""
        made = self._keyed.copy()  # in one call, `hmac.digest` would give other threads their turn for each
        made.update(text.encode("utf-8", "surrogatepass"))
        return made.hexdigest()[:_DIGITS]

    def prompt(self, prompt: Prompt) -> str:
        """Return the digest of a prompt's text, whichever route it came by; a question's context does not count."""
        match prompt:
            case Question() | Text():
                return self.text(prompt.text)
            case Chat() if len(prompt.messages) == 1:
                return self.text(prompt.messages[0].content)
            case Chat():
                return self.text(json.dumps([[message.role, message.content] for message in prompt.messages]))
        return self.text(json.dumps(prompt.ids))
