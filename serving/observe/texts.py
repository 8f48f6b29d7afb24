"""Features of prompts and answers, as events of the dataset `llmops.text`: made when the answer has left.

A thread of its own takes what waits, some answers at a time, and rests four times as long as it worked, and 50 ms at
least, so that requests hardly notice it: all threads of Python share one interpreter, and each wake-up costs as much as
an answer. So it takes at most 900 answers a second. More wait in a bounded queue; an answer that finds it full is lost,
and a figure of `/metrics` counts it. A process that is killed loses the answers that wait.

The texts themselves are in the events with `monitoring.keep_text` only, without personal data and secrets.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmops.config import Config
from llmops.drift.features import extract_features, is_refusal
from llmops.drift.lexicon import Lexicon, load_version_lexicon
from llmops.monitoring.datasets import TEXT
from llmops.monitoring.events import emit_all
from llmops.monitoring.kept_texts import prune_texts
from llmops.registry.version import Version
from llmops.scans.pii import redact_all
from serving.observe.exchange import Exchange, Given, asked_of, context_of

log = logging.getLogger(__name__)

MOST_WAITING = 1_000  #: answers
FLUSH_S = 1.0  #: events are written so often
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
        config: the whole configuration.
        count_lost: called, from any thread, with a reason and how many answers were lost for it.
        lexicon_of: returns the words of a version's training data, if they are known.
    """

    def __init__(
        self,
        config: Config,
        count_lost: Callable[[str, int], None],
        lexicon_of: Callable[[Version], Lexicon | None] | None = None,
    ) -> None:
        self._config, self._count_lost = config, count_lost
        self._lexicon_of = lexicon_of or (lambda version: load_version_lexicon(version, config.artifacts))
        self._lexicons: dict[str, Lexicon | None] = {}
        self._waiting: queue.Queue[_Answered] = queue.Queue(MOST_WAITING)
        self._ready: list[dict[str, Any]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._flushed_at = self._tidied_at = -1e9

    def offer(self, fields: Mapping[str, Any], exchange: Exchange) -> None:
        """Take the answers of a request, and the fields of its event; returns at once."""
        shared = {name: fields[name] for name in _SHARED if name in fields}
        for given in exchange:
            if given.finish_reason:
                try:
                    self._waiting.put_nowait(_Answered(shared, given))
                except queue.Full:
                    self._count_lost("too many at a time", 1)

    def start(self) -> None:
        """Begin to make events."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="texts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make and write the events of answers that wait, for 5 s at most; blocks."""
        self._stopping.set()
        if self._thread:
            self._thread.join(2 * STOP_S)

    def _run(self) -> None:
        end = float("inf")
        while not (self._stopping.is_set() and self._waiting.empty()) and time.monotonic() < end:
            if self._stopping.is_set():
                end = min(end, time.monotonic() + STOP_S)
            try:
                self._turn()
            except Exception:  # the thread outlives whatever one answer does to it
                log.exception("Features of answers cannot be made or written")
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
                    self._count_lost(type(error).__name__, 1)
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
            prune_texts(self._config.events, self._config.monitoring.keep_text_days)
        made, self._ready = self._ready, []
        try:
            if made:
                emit_all(self._config.events, TEXT, made)
        except Exception:
            self._count_lost("they could not be written", len(made))
            raise

    def _event(self, answered: _Answered) -> dict[str, Any]:
        given = answered.given
        prompt, answer, version = asked_of(given.prompt), given.text, given.version
        lexicon = self._lexicon(version)
        [said] = extract_features([answer], lexicon, "answer")
        fields = {
            **answered.shared,
            "event.action": "describe",
            "event.outcome": "success",
            "llmops.model.version": version.name,
            **said.fields("answer"),
            "llmops.answer.refusal": is_refusal(answer),
        }
        if prompt:
            [asked] = extract_features([prompt], lexicon, "prompt")
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
