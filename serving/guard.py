"""The guard: it cuts an answer before a finding leaves the app, unless the prompt holds the same finding.

The rules are those of `llmops.scans.output`. An answer that breaks a rule ends there with the finish reason
`content_filter`, like in OpenAI's API. The request's event names the rule, and a canary's trial counts the cut.

Plain words leave a stream at once. A word that may be part of a finding, and the text after it, is held back until two
more words have come, or until the held text is longer than any finding. In a script without spaces each character is a
word, and eight more must have come.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from llmops.scans import output, pii
from serving.engines.base import Chat, Chunk, Prompt, Question, Text

_MAX_HELD = 128  #: most characters that are held; the longest finding of one word, a storage account's key, has 100
_MAX_CONTEXT = 256  #: most characters before the held ones that are checked together with them
_SUSPECT = re.compile(
    r"\d\W?\d\W?\d|[A-Za-z]\d|\d[A-Za-z]|\d\Z"  # long numbers, and mixtures of letters and digits
    r"|[a-z][A-Z]|[A-Z]{3}\Z|[!-~\uff01-\uff5e]{25}|[<@_=|{}]|://|-----|!\["
    r"|(?i:pass|pwd|key|secret|token|aws|javascript|data:)"
    r"|(?i:\b(?:rm|curl|wget|mkfs|dd|chmod|drop|truncate|delete|powershell)\b)"
)  #: a text without any of these breaks no rule
_LATER_WORD = re.compile(rf"\s\S+(?=\s)|[{pii.UNSPACED}]{{4}}")
_BREAK = re.compile(rf"[\s{pii.UNSPACED}]")  #: the end of a word


class Guard:
    """The rules for all answers: entities of `llmops.scans.pii`, or rules of `llmops.scans.output`, by their names."""

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = frozenset(rules)
        self._entities = tuple(rule for rule in rules if rule in pii.ENTITIES)

    def warm_up(self) -> None:
        """Load the recognisers before an answer needs them. For 3 s nothing else in the app runs."""
        self.find_broken_rules("", "4111 1111 1111 1111, DE89370400440532013000")

    def make_filter(self, prompt: Prompt) -> AnswerFilter:
        """Return a filter for one answer to this prompt."""
        return AnswerFilter(self, prompt)

    def find_broken_rules(self, prompt: str, answer: str) -> list[str]:
        """Return the rules that an answer breaks and its prompt does not."""
        found = output.check_answer(prompt, answer, entities=self._entities, signs=self._rules)
        in_prompt = {finding.rule for finding in output.check_answer("", prompt, signs=self._rules)} if found else set()
        return [finding.rule for finding in found if finding.rule not in in_prompt]


class AnswerFilter:
    """A filter that passes one answer on, piece by piece, until it breaks a rule."""

    def __init__(self, guard: Guard, prompt: Prompt) -> None:
        self.prompt = prompt
        self._guard, self._text = guard, _join_text(prompt)
        self._answer, self._released = "", 0
        self.rules: list[str] = []  #: the rules that the answer broke

    def feed(self, chunk: Chunk) -> Chunk:
        """Return the answer's next chunk with the text that may leave now, earlier held text included.

        If the answer breaks a rule, this is its last chunk: it has no text and the finish reason `content_filter`.
        """
        self._answer += chunk.text
        end, start = len(self._answer), _find_word_start(self._answer, self._released)  # a word may have left by half
        suspects = list(_SUSPECT.finditer(self._answer, start))
        later_words = _LATER_WORD.findall(self._answer, suspects[-1].end() - 1) if suspects else []
        if chunk.finish_reason or not suspects or len(later_words) > 1:
            release = end
        else:
            release = max(_find_word_start(self._answer, suspects[0].start()), self._released, end - _MAX_HELD)
        if suspects and suspects[0].start() < release:
            self.rules = self._guard.find_broken_rules(self._text, self._answer[max(0, start - _MAX_CONTEXT) :])
        if self.rules:
            return replace(chunk, text="", finish_reason="content_filter")
        text, self._released = self._answer[self._released : release], release
        return chunk if text == chunk.text else replace(chunk, text=text)


def _find_word_start(text: str, position: int) -> int:
    while position and not _BREAK.match(text[position - 1]):
        position -= 1
    return position


def _join_text(prompt: Prompt) -> str:
    match prompt:
        case Question():
            return f"{prompt.text}\n{prompt.context}"
        case Chat():
            return "\n".join(message.content for message in prompt.messages)
        case Text():
            return prompt.text
    return ""  # only the engine knows the text of token ids
