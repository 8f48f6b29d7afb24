"""Questions that get no good answer and have no correction: a list for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from llmops.data.feedback.same import jaccard, words_of
from llmops.monitoring.datasets import FEEDBACK, TEXT
from llmops.monitoring.reader import Reader

ALIKE = 0.4  #: least Jaccard similarity of the words of two questions of one topic
MOST = 50  #: most topics listed


def unanswered(reader: Reader, since: str, until: str) -> list[dict[str, Any]]:
    """Return topics, most frequent first: a representative question, count and reason.

    Counted are questions that the model refused, and questions with a bad rating but no correction. Their texts must
    be stored (`monitoring.keep_text`).
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
