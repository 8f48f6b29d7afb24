"""What people ask and get no good answer to, though nobody has said what the answer is: a list for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from llmops.data.feedback.same import jaccard, words_of
from llmops.monitoring.datasets import FEEDBACK, TEXT
from llmops.monitoring.reader import Reader

ALIKE = 0.4  #: Jaccard similarity of the words from which two questions are of one topic
MOST = 50  #: topics that are listed


def unanswered(reader: Reader, since: str, until: str) -> list[dict[str, Any]]:
    """Topics, the most asked first: a question that stands for it, how often, why.

    Asked are the questions that the model declined to answer, and those whose answer somebody found bad without saying
    what is right. Their texts are known where they are kept.
    """
    bad: dict[str, str] = {}
    for event in reader.find(FEEDBACK, since, until):
        request = str(event.get("http.request.id"))
        if event.get("llmops.feedback.correction") or event.get("llmops.feedback.rating") == "up":
            bad.pop(request, None)
        elif event.get("llmops.feedback.rating") == "down":
            bad[request] = "found bad"
    names = ("http.request.id", "llmops.prompt.text", "llmops.answer.refusal")
    asked: list[tuple[str, str]] = []
    for request, text, refused in reader.columns(TEXT, names, since, until):
        why = "declined" if refused else bad.get(str(request), "")
        if text and why:
            asked.append((str(text), why))
    return _topics(asked)


def _topics(asked: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    heads: list[str] = []
    whys: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, why in asked:
        words = words_of(text)
        head = next((h for h in heads if words_of(h).plain == words.plain or jaccard(words_of(h), words) >= ALIKE), "")
        if not head:
            heads.append(head := text)
        whys[head][why] += 1
    found: list[dict[str, Any]] = [
        {"question": head, "count": why.total(), "why": _words(why)} for head, why in whys.items()
    ]
    return sorted(found, key=lambda topic: (-topic["count"], topic["question"]))[:MOST]


def _words(whys: Mapping[str, int]) -> str:
    return ", ".join(f"{why} {number} times" if number > 1 else why for why, number in sorted(whys.items()))
