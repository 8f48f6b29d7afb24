"""Features of prompts and answers, as events of the dataset `llmops.text`: made when the answer has left.

A thread of its own takes what waits, some answers at a time, and rests four times as long as it worked, and 50 ms at
least, so that requests hardly notice it: all threads of Python share one interpreter, and each wake-up costs as much as
an answer. So it takes at most 900 answers a second; what comes faster waits in a bounded queue; what finds it full is
lost. How many were lost, and why, is an event, a line in the log and a figure of `/metrics`. A process that is killed
loses what waits.

The texts themselves are in the events with `monitoring.keep_text` only, without personal data and secrets.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmops.config import Config
from llmops.drift.features import features, is_refusal
from llmops.drift.lexicon import Lexicon, version_lexicon
from llmops.monitoring.datasets import TEXT
from llmops.monitoring.events import emit_all
from llmops.monitoring.kept_texts import remove_old
from llmops.registry.version import Version
from llmops.scans.pii import redact_all
from serving.observe.exchange import Exchange, Given, asked_of, context_of

log = logging.getLogger(__name__)

MOST_WAITING = 1_000  #: answers
FLUSH_S = 1.0  #: events are written so often
TELL_S = 60.0  #: losses are told so often
TIDY_S = 3600.0  #: texts that were kept long enough are removed so often
SEVERAL = 50  #: answers are taken at a time, at most
LEAST_REST_S = 0.05
REST = 4.0  #: times as long as it worked
MOST_REST_S = 0.25  #: also after the words of a version's training data were read, which takes seconds
STOP_S = 5.0  #: for what waits when the app ends

#: fields of the request's event that the event of its texts has, too
_SHARED = ("@timestamp", "http.request.id", "llmops.key.prefix", "user.roles")


class _Answered(NamedTuple):
    shared: dict[str, Any]
    given: Given


class Texts:
    """Makes the events.

    Args:
        config: of the app.
        count_lost: called with a reason and how many answers were lost for it; from any thread.
        lexicon_of: what is known of a version's training data; None: nothing.
    """

    def __init__(
        self,
        config: Config,
        count_lost: Callable[[str, int], None],
        lexicon_of: Callable[[Version], Lexicon | None] | None = None,
    ) -> None:
        self._config, self._count_lost = config, count_lost
        self._lexicon_of = lexicon_of or (lambda version: version_lexicon(version, config.artifacts))
        self._lexicons: dict[str, Lexicon | None] = {}
        self._waiting: queue.Queue[_Answered] = queue.Queue(MOST_WAITING)
        self._lost: Counter[str] = Counter()
        self._lock = threading.Lock()  # of `_lost`
        self._ready: list[dict[str, Any]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._told_at = self._flushed_at = self._tidied_at = -1e9

    def offer(self, fields: Mapping[str, Any], exchange: Exchange) -> None:
        """Take what a request was answered; returns at once.

        Args:
            fields: of the request's event.
            exchange: what it asked and was answered.
        """
        for given in exchange.given:
            if given.finish_reason:
                try:
                    self._waiting.put_nowait(
                        _Answered({name: fields[name] for name in _SHARED if name in fields}, given)
                    )
                except queue.Full:
                    self._lose("too many at a time")

    def start(self) -> None:
        """Begin to make events."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="texts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make and write what waits, for 5 s at most; blocks."""
        self._stopping.set()
        if self._thread:
            self._thread.join(2 * STOP_S)

    def _run(self) -> None:
        """Until `stop`, and then what waits."""
        end = float("inf")
        while not (self._stopping.is_set() and self._waiting.empty()) and time.monotonic() < end:
            if self._stopping.is_set():
                end = min(end, time.monotonic() + STOP_S)
            try:
                self._turn()
            except Exception:  # the thread outlives whatever one answer does to it
                log.exception("Features of answers cannot be made or written")
        if left := self._waiting.qsize():
            self._lose("the app ended", left)
        try:
            self._flush(everything=True)
        except Exception:
            log.exception("Features of the last answers are lost")

    def _turn(self) -> None:
        began, taken, wait_s = time.thread_time(), 0, 0.0 if self._stopping.is_set() else FLUSH_S
        with contextlib.suppress(queue.Empty):
            while taken < SEVERAL and time.thread_time() - began < MOST_REST_S / REST:
                answered = self._waiting.get(timeout=wait_s) if wait_s else self._waiting.get_nowait()
                taken, wait_s = taken + 1, 0.0
                try:
                    self._ready.append(self._event(answered))
                except Exception as error:
                    log.exception("The features of an answer cannot be made")
                    self._lose(type(error).__name__)
        self._flush()
        rest_s = max(REST * (time.thread_time() - began), LEAST_REST_S)
        self._stopping.wait(min(rest_s, MOST_REST_S) if taken else 0.0)

    def _flush(self, everything: bool = False) -> None:
        now = time.monotonic()
        if not everything and now < self._flushed_at + FLUSH_S:
            return
        self._flushed_at = now
        if now >= self._tidied_at + TIDY_S:
            self._tidied_at = now
            remove_old(self._config.events, self._config.monitoring.keep_text_days)
        made, self._ready = self._ready, []
        lost = self._losses(everything)
        if not made and not lost:
            return
        try:
            emit_all(self._config.events, TEXT, [*made, *_told(lost)])
        except Exception:
            with self._lock:
                self._lost += lost
            self._lose("they could not be written", len(made))
            raise

    def _event(self, answered: _Answered) -> dict[str, Any]:
        given = answered.given
        prompt, answer, version = asked_of(given.prompt), given.text, given.version
        lexicon = self._lexicon(version)
        [said] = features([answer], lexicon, "answer")
        fields = {
            **answered.shared,
            "event.action": "describe",
            "event.outcome": "success",
            "llmops.model.version": version.name,
            **said.fields("answer"),
            "llmops.answer.refusal": is_refusal(answer),
        }
        if prompt:
            [asked] = features([prompt], lexicon, "prompt")
            fields.update(asked.fields("prompt"))
        if self._config.monitoring.keep_text:
            fields.update(self._kept({"prompt": prompt, "context": context_of(given.prompt), "answer": answer}))
        return fields

    def _kept(self, texts: Mapping[str, str]) -> dict[str, str]:
        there = {name: text for name, text in texts.items() if text}
        cleaned = redact_all(list(there.values()), self._config.govern.entities)
        return {f"llmops.{name}.text": found.text for name, found in zip(there, cleaned, strict=True)}

    def _lexicon(self, version: Version) -> Lexicon | None:
        if version.name not in self._lexicons:
            self._lexicons[version.name] = None  # if it fails, it is not tried again
            self._lexicons[version.name] = self._lexicon_of(version)
        return self._lexicons[version.name]

    def _lose(self, why: str, count: int = 1) -> None:
        if count:
            with self._lock:
                self._lost[why] += count
            self._count_lost(why, count)

    def _losses(self, everything: bool) -> Counter[str]:
        """What was lost since it was told last, at most every minute."""
        now = time.monotonic()
        if not everything and now < self._told_at + TELL_S:
            return Counter()
        with self._lock:
            lost, self._lost = self._lost, Counter()
        if lost:
            self._told_at = now
            log.warning("Of some answers no features are told: %s", dict(lost))
        return lost


def _told(lost: Mapping[str, int]) -> list[dict[str, Any]]:
    """Events about what was lost."""
    fields = {"event.action": "lose", "event.outcome": "failure"}
    return [{**fields, "event.reason": why, "llmops.text.lost": count} for why, count in lost.items()]
