"""The guard: it keeps back what an answer may not hold, before it leaves, unless the prompt holds it too.

The rules are those of `llmops.scans.output`. An answer that breaks one ends there, with the finish reason
`content_filter`, as in OpenAI's API; the request's event names the rule, and a canary's trial counts it.

Plain words leave a stream at once. A word that may be part of a finding, and what comes after it, is held until two
more words have come, or until more text is held than any finding is long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from llmops.scans import output, pii
from serving.engines.base import Chat, Chunk, Prompt, Question, Text

_MOST_HELD = 128  #: characters that are held at most; the longest finding of one word, a storage account's key, has 100
_MOST_BEFORE = 256  #: characters before the held ones that the rules are given too
_SIGN = re.compile(
    r"\d\W?\d\W?\d|[A-Za-z]\d|\d[A-Za-z]|\d\Z"  # numbers and mixtures, as long as they are no short number
    r"|[a-z][A-Z]|[A-Z]{3}\Z|\S{25}|[<@_=|{}]|://|-----|!\["
    r"|(?i:pass|pwd|key|secret|token|aws|javascript|data:)"
    r"|(?i:\b(?:rm|curl|wget|mkfs|dd|chmod|drop|truncate|delete|powershell)\b)"
)  #: text without any of these holds nothing that a rule finds
_FOLLOWS = re.compile(r"\s\S+(?=\s)")


class Guard:
    """The rules for all answers: names of personal data and secrets, or of the rules of `llmops.scans.output`."""

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = frozenset(rules)
        self._entities = tuple(rule for rule in rules if rule in pii.ENTITIES)

    def warm(self) -> None:
        """Load the finders before an answer needs them: that takes 3 s, in which nothing else in the app runs."""
        self.found("", "4111 1111 1111 1111, DE89370400440532013000")

    def watch(self, prompt: Prompt) -> AnswerWatch:
        """Return the watch over one answer to this prompt."""
        return AnswerWatch(self, prompt)

    def found(self, prompt: str, answer: str) -> list[str]:
        """Return the rules that an answer breaks, and its prompt does not."""
        broken = [found.rule for found in output.check(prompt, answer, entities=self._entities)]
        broken = [rule for rule in broken if rule in self._rules]
        in_prompt = {found.rule for found in output.check("", prompt)} if broken else set()
        return [rule for rule in broken if rule not in in_prompt]


class AnswerWatch:
    """Lets one answer through piece by piece, up to where it breaks a rule."""

    def __init__(self, guard: Guard, prompt: Prompt) -> None:
        self.prompt = prompt
        self._guard, self._text = guard, _text(prompt)
        self._answer, self._released = "", 0
        self.rules: list[str] = []  #: the rules that the answer broke

    def see(self, chunk: Chunk) -> Chunk:
        """Take the answer's next chunk, and return the chunk that may leave now, with held text that may leave, too.

        If the answer breaks a rule, this is its last chunk: it has no text and the finish reason `content_filter`.
        """
        self._answer += chunk.text
        end, begin = len(self._answer), _word(self._answer, self._released)  # the word that is half gone counts, too
        signs = list(_SIGN.finditer(self._answer, begin))
        known = chunk.finish_reason or not signs or len(_FOLLOWS.findall(self._answer, signs[-1].end() - 1)) > 1
        leaves = end if known else max(_word(self._answer, signs[0].start()), self._released, end - _MOST_HELD)
        if signs and signs[0].start() < leaves:
            self.rules = self._guard.found(self._text, self._answer[max(0, begin - _MOST_BEFORE) :])
        if self.rules:
            return replace(chunk, text="", finish_reason="content_filter")
        text, self._released = self._answer[self._released : leaves], leaves
        return chunk if text == chunk.text else replace(chunk, text=text)


def _word(text: str, at: int) -> int:
    while at and not text[at - 1].isspace():
        at -= 1
    return at


def _text(prompt: Prompt) -> str:
    match prompt:
        case Question():
            return f"{prompt.text}\n{prompt.context}"
        case Chat():
            return "\n".join(message.content for message in prompt.messages)
        case Text():
            return prompt.text
    return ""  # token ids, of which only the engine knows the text
