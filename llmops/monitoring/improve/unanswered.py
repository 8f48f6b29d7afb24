"""Questions without a good answer and without a correction, as a list for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from llmops.data.text.normalization import normalize_text
from llmops.data.text.words import split_words
from llmops.events.datasets import FEEDBACK, TEXT
from llmops.events.reader import Reader

MIN_JACCARD = 0.4  #: least Jaccard similarity of the words of two questions of one topic
MAX_TOPICS = 50  #: most topics listed


def find_unanswered(reader: Reader, since: str, until: str) -> list[dict[str, Any]]:
    """Return topics, most frequent first: a representative question, count and reason.

    A question counts if the model refused it, or if it has a bad rating and no correction. Its text must be stored
    (`monitoring.keep_text`).
    """
    bad: dict[str, str] = {}
    for event in reader.find(FEEDBACK, since, until):
        request = str(event.get("http.request.id"))
        if event.get("llmops.feedback.correction") or event.get("llmops.feedback.rating") == "up":
            bad.pop(request, None)
        elif event.get("llmops.feedback.rating") == "down":
            bad[request] = "rated bad"
    names = ("http.request.id", "llmops.prompt.text", "llmops.answer.refusal")
    asked: list[tuple[str, str]] = []
    for request, text, refused in reader.select(TEXT, names, since, until):
        reason = "declined" if refused else bad.get(str(request), "")
        if text and reason:
            asked.append((str(text), reason))
    return _group_by_topic(asked)


def _group_by_topic(asked: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    heads: dict[str, tuple[str, set[str]]] = {}  #: question → its normal form and words
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, reason in asked:
        plain = normalize_text(text)
        words = set(split_words(plain))
        similar = (
            head
            for head, (other, others) in heads.items()
            if other == plain or len(words & others) >= MIN_JACCARD * max(1, len(words | others))
        )
        head = next(similar, text)
        heads.setdefault(head, (plain, words))
        counts[head][reason] += 1
    topics: list[dict[str, Any]] = [
        {"question": head, "count": count.total(), "why": _describe_reasons(count)} for head, count in counts.items()
    ]
    return sorted(topics, key=lambda topic: (-topic["count"], topic["question"]))[:MAX_TOPICS]


def _describe_reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {number} times" if number > 1 else reason for reason, number in sorted(counts.items()))
