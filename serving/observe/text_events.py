"""Features of prompts and answers, as events of the dataset `llmops.text`, made after the answer has left.

All threads of Python share one interpreter, and each wake-up costs as much as an answer. Therefore one thread takes the
waiting answers in batches, and rests four times as long as it worked, at least 50 ms. It takes at most 900 answers a
second. Further answers wait in a bounded queue. If the queue is full, the answer's features are lost, and `/metrics`
counts the loss. A killed process loses the features of waiting answers.

The events hold the texts only with `monitoring.keep_text`, without personal data and secrets.
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
from llmops.events.datasets import TEXT
from llmops.events.events import emit_all
from llmops.events.text_pruning import prune_texts
from llmops.monitoring.drift.features import extract_features, is_refusal
from llmops.monitoring.drift.lexicon import Lexicon, load_version_lexicon
from llmops.release.registry.version import Version
from llmops.scans.pii import redact_texts
from serving.observe.exchange import Exchange, ServedAnswer, get_context, get_question

log = logging.getLogger(__name__)

MAX_WAITING = 1_000  #: answers
FLUSH_S = 1.0  #: how often events are written
PRUNE_S = 3600.0  #: how often texts older than `monitoring.keep_text_days` are removed
BATCH = 50  #: most answers at a time
MIN_REST_S = 0.05
REST_FACTOR = 4.0  #: rest per time of work
MAX_REST_S = 0.25  #: even after a lexicon was read, which takes seconds
STOP_S = 5.0  #: time for the waiting answers when the app ends

#: fields of the request's event that the event of its texts has, too
_SHARED_FIELDS = ("@timestamp", "http.request.id", "gen_ai.conversation.id", "llmops.key.prefix", "user.roles")


class _Waiting(NamedTuple):
    shared: dict[str, Any]
    answer: ServedAnswer


class TextRecorder:
    """The maker of these events.

    Args:
        config: the whole configuration.
        count_lost: called, from any thread, with a reason and the number of answers whose features are lost.
        load_lexicon: returns the words of a version's training data, if they are known.
        is_erased: returns True for the prefix of a key that an erasure has deleted; its events are dropped.
    """

    def __init__(
        self,
        config: Config,
        count_lost: Callable[[str, int], None],
        load_lexicon: Callable[[Version], Lexicon | None] | None = None,
        is_erased: Callable[[object], bool] = lambda prefix: False,
    ) -> None:
        self._config, self._count_lost, self._is_erased = config, count_lost, is_erased
        self._load_lexicon = load_lexicon or (lambda version: load_version_lexicon(version, config.artifacts))
        self._lexicons: dict[str, Lexicon | None] = {}
        self._waiting: queue.Queue[_Waiting] = queue.Queue(MAX_WAITING)
        self._ready: list[dict[str, Any]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._flushed_at = self._pruned_at = -1e9

    def offer(self, fields: Mapping[str, Any], exchange: Exchange) -> None:
        """Put the answers of a request into the queue, with the fields of its event. Do not block."""
        shared = {name: fields[name] for name in _SHARED_FIELDS if name in fields}
        for answer in exchange:
            if answer.finish_reason:
                try:
                    self._waiting.put_nowait(_Waiting(shared, answer))
                except queue.Full:
                    self._count_lost("too many at a time", 1)

    def start(self) -> None:
        """Start the thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="texts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the events of waiting answers, for at most 5 s. Blocks."""
        self._stopping.set()
        if self._thread:
            self._thread.join(2 * STOP_S)

    def _run(self) -> None:
        end = float("inf")
        while not (self._stopping.is_set() and self._waiting.empty()) and time.monotonic() < end:
            if self._stopping.is_set():
                end = min(end, time.monotonic() + STOP_S)
            try:
                self._process_batch()
            except Exception:  # the thread must survive any answer
                log.exception("Features of answers cannot be made or written")
        try:
            self._flush(everything=True)
        except Exception:
            log.exception("Features of the last answers are lost")

    def _process_batch(self) -> None:
        start, taken, wait_s = time.thread_time(), 0, 0.0 if self._stopping.is_set() else FLUSH_S
        with contextlib.suppress(queue.Empty):
            while taken < BATCH and time.thread_time() - start < MAX_REST_S / REST_FACTOR:
                waiting = self._waiting.get(timeout=wait_s) if wait_s else self._waiting.get_nowait()
                taken, wait_s = taken + 1, 0.0
                try:
                    self._ready.append(self._make_event(waiting))
                except Exception as error:
                    log.exception("The features of an answer cannot be made")
                    self._count_lost(type(error).__name__, 1)
        self._flush()
        rest_s = max(REST_FACTOR * (time.thread_time() - start), MIN_REST_S)
        self._stopping.wait(min(rest_s, MAX_REST_S) if taken else 0.0)

    def _flush(self, everything: bool = False) -> None:
        now = time.monotonic()
        if not everything and now < self._flushed_at + FLUSH_S:
            return
        self._flushed_at = now
        if now >= self._pruned_at + PRUNE_S:
            self._pruned_at = now
            prune_texts(self._config.events, self._config.monitoring.keep_text_days)
        events = [event for event in self._ready if not self._is_erased(event.get("llmops.key.prefix"))]
        self._ready = []
        try:
            if events:
                emit_all(self._config.events, TEXT, events)
        except Exception:
            self._count_lost("they could not be written", len(events))
            raise

    def _make_event(self, waiting: _Waiting) -> dict[str, Any]:
        served = waiting.answer
        prompt, answer, version = get_question(served.prompt), served.text, served.version
        lexicon = self._get_lexicon(version)
        [answer_features] = extract_features([answer], lexicon, "answer")
        fields = {
            **waiting.shared,
            "event.action": "describe",
            "event.outcome": "success",
            "llmops.model.version": version.name,
            **answer_features.to_event_fields("answer"),
            "llmops.answer.refusal": is_refusal(answer),
        }
        if version.classifies:
            fields["llmops.answer.label"] = answer or "none"
            if served.confidence is not None:
                fields["llmops.answer.confidence"] = round(served.confidence, 4)
        if prompt:
            [prompt_features] = extract_features([prompt], lexicon, "prompt")
            fields.update(prompt_features.to_event_fields("prompt"))
        if self._config.monitoring.keep_text:
            texts = {"prompt": prompt, "context": get_context(served.prompt), "answer": answer}
            named = {f"llmops.{name}.text": text for name, text in texts.items() if text}
            redacted = redact_texts(list(named.values()), self._config.govern.entities)
            fields.update({name: one.text for name, one in zip(named, redacted, strict=True)})
        return fields

    def _get_lexicon(self, version: Version) -> Lexicon | None:
        if version.name not in self._lexicons:
            self._lexicons[version.name] = None  # after a failure it is not read again
            self._lexicons[version.name] = self._load_lexicon(version)
        return self._lexicons[version.name]
