"""The guard: it keeps back what an answer may not hold, before it leaves, unless the prompt holds it too.

The rules are those of `llmops.scans.output`. An answer that breaks one ends there, with the finish reason
`content_filter`, as in OpenAI's API; the request's event names the rule, and a canary's trial counts it.

Plain words leave a stream at once. A word that may be part of a finding, and what comes after it, is held until two
more words have come, or until more text is held than any finding is long. Four letters of a script that is written
without spaces count as a word. A number as long as a card's is held until the words have come that can make it one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from llmops.scans import output, pii
from serving.engines.base import Chat, Chunk, Prompt, Question, Text, ToolCall
from serving.engines.logprobs import Aligned
from serving.json_text import told

_MOST_HELD = 128  #: characters that are held at most; the longest finding of one word, a storage account's key, has 100
_MOST_BEFORE = 256  #: characters before the held ones that the rules are given too
_SIGN = re.compile(
    r"\d\W?\d\W?\d|[A-Za-z]\d|\d[A-Za-z]|\d\Z"  # numbers and mixtures, as long as they are no short number
    r"|[a-z][A-Z]|[A-Z]{3}\Z|AKIA|ASIA|ABIA|ACCA|A3T|[!-~\uff01-\uff5e]{25}|[<@_=|{}]|://|-----|!\["
    r"|(?i:pass|pwd|key|secret|token|aws|javascript|data:)"
    r"|(?i:\b(?:rm|curl|wget|mkfs|dd|chmod|drop|truncate|delete|powershell)\b)"
)  #: text without any of these holds nothing that a rule finds
_FOLLOWS = re.compile(rf"\s\S+(?=\s)|[{pii.UNSPACED}]{{4}}")  #: a word, or what says as much without spaces
_MAYBE_CARD = re.compile(rf"\d{{12}}[\s\S]{{0,{pii.AFTER_CARD - 1}}}\Z")  #: a number with not all after it yet
_UNSPACED = re.compile(f"[{pii.UNSPACED}]")


class Guard:
    """Knows what is looked for in all answers.

    Args:
        rules: names of personal data and secrets, or of the rules of `llmops.scans.output`.
    """

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = frozenset(rules)
        self._entities = tuple(rule for rule in rules if rule in pii.ENTITIES)

    def warm(self) -> None:
        """Load what finds these, before an answer needs it: that takes 3 s, in which nothing else in the app runs."""
        self.found("", "4111 1111 1111 1111, DE89370400440532013000")

    def watch(self, prompt: Prompt) -> AnswerWatch:
        """What looks at one answer to this prompt while it comes."""
        return AnswerWatch(self, prompt)

    def found(self, prompt: str, *parts: str) -> list[str]:
        """The rules that parts of an answer break, each by itself, and its prompt does not."""
        suspect = [part for part in parts if self._broken("", part)]  # what the prompt holds is not read for each
        broken = dict.fromkeys(rule for part in suspect for rule in self._broken(prompt, part))
        in_prompt = {found.rule for found in output.check("", prompt)} if broken else set()
        return [rule for rule in broken if rule not in in_prompt]

    def _broken(self, prompt: str, part: str) -> list[str]:
        found = output.check(prompt, part, entities=self._entities)
        return [one.rule for one in found if one.rule in self._rules]


class AnswerWatch:
    """Lets one answer through piece by piece, up to where it breaks a rule."""

    def __init__(self, guard: Guard, prompt: Prompt) -> None:
        self.prompt = prompt
        self._guard, self._text = guard, _text(prompt)
        self._answer, self._released, self._tokens = "", 0, Aligned()
        self.rules: list[str] = []  #: the rules that the answer broke

    def see(self, chunk: Chunk) -> Chunk:
        """Take the answer's next chunk; gives the chunk that may leave now, with what was held and may leave, too.

        If the answer breaks a rule, this is its last chunk: it has no text, no calls and the finish reason
        `content_filter`. Nor are its tokens told that have not all left.
        """
        self._answer += chunk.text
        self._tokens.add(chunk.tokens)
        end, begin = len(self._answer), _word(self._answer, self._released)  # the word that is half gone counts, too
        signs = list(_SIGN.finditer(self._answer, begin))
        followed = not signs or len(_FOLLOWS.findall(self._answer, signs[-1].end() - 1)) > 1
        known = chunk.finish_reason or (followed and not _MAYBE_CARD.search(self._answer, begin))
        leaves = end if known else max(_word(self._answer, signs[0].start()), self._released, end - _MOST_HELD)
        if signs and signs[0].start() < leaves:
            self.rules = self._guard.found(self._text, self._answer[max(0, begin - _MOST_BEFORE) :])
        if chunk.calls and not self.rules:
            self.rules = self._guard.found(self._text, *_called(chunk.calls))
        if self.rules:
            return replace(chunk, text="", finish_reason="content_filter", tokens=(), calls=())
        text, self._released = self._answer[self._released : leaves], leaves
        return replace(chunk, text=text, tokens=self._tokens.leave(text))


def _word(text: str, at: int) -> int:
    """Where the word begins that `at` is in; a letter of a script without spaces is a word by itself."""
    while at and not text[at - 1].isspace() and not _UNSPACED.match(text[at - 1]):
        at -= 1
    return at


def _called(calls: Sequence[ToolCall]) -> list[str]:
    """What calls say that a rule may find something in; no value stands beside another, which might excuse it."""
    lines = dict.fromkeys(line for call in calls for line in told(call.arguments))
    return [line for line in lines if _SIGN.search(line)]


def _text(prompt: Prompt) -> str:
    match prompt:
        case Question():
            return f"{prompt.text}\n{prompt.context}"
        case Chat():
            return "\n".join([*(message.in_words for message in prompt.messages), prompt.tools])
        case Text():
            return prompt.text
    return ""  # token ids, of which only the engine knows the text
