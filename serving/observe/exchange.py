"""The prompts and answers of one request. They are held until its event, its features and its trace are made."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field

from llmops.release.registry.version import Version
from serving.engines.base import Chat, FinishReason, Prompt, Question, Text

_DIGITS = 32  #: hex digits of SHA-256 that are kept


@dataclass(slots=True)
class ServedAnswer:
    """One answer. Times are values of `time.perf_counter_ns`; 0: not yet."""

    prompt: Prompt
    version: Version
    started_ns: int = 0  #: when the engine started with the request
    first_chunk_ns: int = 0
    ended_ns: int = 0
    texts: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None  #: None: the answer is not complete
    confidence: float | None = None  #: probability of a classifier's likeliest label; None: not known

    @property
    def text(self) -> str:
        """Return the text of the answer so far."""
        return "".join(self.texts)


Exchange = list[ServedAnswer]  #: the answers of one request, in their order


def get_question(prompt: Prompt) -> str:
    """Return the question, or the text of a prompt; empty for token ids. In a conversation it is the last message.

    After a result of a function it is the user's last message.
    """
    match prompt:
        case Question() | Text():
            return prompt.text
        case Chat():
            return prompt.messages[_find_question(prompt)].content
    return ""


def get_context(prompt: Prompt) -> str:
    """Return the context of a question, or the other messages of a conversation."""
    match prompt:
        case Question():
            return prompt.context
        case Chat():
            asked = _find_question(prompt)
            others = [*prompt.messages[:asked], *prompt.messages[asked + 1 :]]
            return "\n".join(f"{message.role}: {message.content}" for message in others)
    return ""


def _find_question(chat: Chat) -> int:
    """Return the position of the message that the answer is for."""
    last = len(chat.messages) - 1
    if chat.messages[last].role != "tool":
        return last
    return max((n for n, message in enumerate(chat.messages) if message.role == "user"), default=last)


class Digests:
    """Keyed digests of texts. Equal texts have equal digests; without the key nobody can test guesses of a text.

    The key is derived from the secret that signs ids, so replicas with the same `LLMOPS_SESSION_SECRET` agree.
    """

    def __init__(self, secret: bytes) -> None:
        self._keyed = hmac.new(hmac.digest(secret, b"digests of texts", hashlib.sha256), digestmod=hashlib.sha256)

    def digest_text(self, text: str) -> str:
        """Return the digest of a text."""
        digest = self._keyed.copy()  # `hmac.digest` would release the interpreter's lock for each text
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:_DIGITS]

    def digest_prompt(self, prompt: Prompt) -> str:
        """Return the digest of a prompt's text, the same for each route. It leaves out a question's context."""
        match prompt:
            case Question() | Text():
                return self.digest_text(prompt.text)
            case Chat() if len(prompt.messages) == 1:
                return self.digest_text(prompt.messages[0].content)
            case Chat():
                return self.digest_text(json.dumps([[message.role, message.content] for message in prompt.messages]))
        return self.digest_text(json.dumps(prompt.ids))
