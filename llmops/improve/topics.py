"""What people ask and get no good answer to, though nobody has said what the answer is: a list for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from llmops.data.feedback.same import jaccard, words_of
from llmops.monitoring.datasets import FEEDBACK, TEXT
from llmops.monitoring.reader import Reader

ALIKE = 0.4  #: Jaccard similarity of the words from which two questions are of one topic
MOST = 50  #: topics that are listed


class _Asked(NamedTuple):
    """A question that was kept."""

    text: str
    why: str  #: it has no good answer
    key: str  #: prefix of the key that asked it
    time: str


def unanswered(reader: Reader, since: str, until: str, gone: Mapping[str, str]) -> list[dict[str, Any]]:
    """Topics, the most asked first: a question that stands for it, how often, why; and by whose key and when that
    question was asked, for whom the report has to lose it one day.

    Asked are the questions that the model declined to answer, and those whose answer somebody found bad without saying
    what is right. Their texts are known where they are kept.

    Args:
        reader: of the events.
        since: from then on.
        until: before then.
        gone: prefix of a key whose owner was forgotten → when: what it asked until then is left out.
    """
    bad: dict[str, str] = {}
    for event in reader.find(FEEDBACK, since, until):
        request = str(event.get("http.request.id"))
        if event.get("llmops.feedback.correction") or event.get("llmops.feedback.rating") == "up":
            bad.pop(request, None)
        elif event.get("llmops.feedback.rating") == "down":
            bad[request] = "found bad"
    names = ("http.request.id", "llmops.prompt.text", "llmops.answer.refusal", "llmops.key.prefix", "@timestamp")
    asked: list[_Asked] = []
    for request, text, refused, key, time in reader.columns(TEXT, names, since, until):
        why = "declined" if refused else bad.get(str(request), "")
        if text and why and str(time) > gone.get(str(key), ""):
            asked.append(_Asked(str(text), why, str(key), str(time)))
    return _topics(asked)


def _topics(asked: Iterable[_Asked]) -> list[dict[str, Any]]:
    heads: list[_Asked] = []
    whys: defaultdict[_Asked, Counter[str]] = defaultdict(Counter)
    for one in asked:
        words = words_of(one.text)
        alike = (h for h in heads if words_of(h.text).plain == words.plain or jaccard(words_of(h.text), words) >= ALIKE)
        head = next(alike, None)
        if not head:
            heads.append(head := one)
        whys[head][one.why] += 1
    found: list[dict[str, Any]] = [
        {"question": head.text, "count": why.total(), "why": _words(why), "key": head.key, "time": head.time}
        for head, why in whys.items()
    ]
    return sorted(found, key=lambda topic: (-topic["count"], topic["question"]))[:MOST]


def _words(whys: Mapping[str, int]) -> str:
    return ", ".join(f"{why} {number} times" if number > 1 else why for why, number in sorted(whys.items()))
