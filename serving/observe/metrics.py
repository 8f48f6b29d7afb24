"""Metrics for Prometheus, counted from the fields of the events, so that both agree.

Durations have the names and buckets of OpenTelemetry's conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/), in Prometheus' notation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.models.watcher import Models

# The import of Feast makes prometheus_client store values in files, which all registries of a process share.
values.ValueClass = values.MutexValue

_DURATION_BUCKETS_S = tuple(0.01 * 2**n for n in range(14))
_FIRST_CHUNK_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Metrics:
    """The metrics of one app. The state of the engines is read at each export."""

    def __init__(self, models: Models) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "llmops_requests", "Requests that ask a model.", ("path", "status", "version"), registry=registry
        )
        self._duration = _make_histogram(
            "request_duration", "Seconds from a request to the end of its answer.", _DURATION_BUCKETS_S, registry
        )
        self._first = _make_histogram(
            "time_to_first_token",
            "Seconds from a request to the first piece of its answer.",
            _FIRST_CHUNK_BUCKETS_S,
            registry,
        )
        self._tokens = Counter(
            "llmops_tokens", "Tokens of prompts (input) and answers (output).", ("type", "version"), registry=registry
        )
        self._cut = Counter(
            "llmops_guard_cuts", "Answers that the guard has cut.", ("rule", "version"), registry=registry
        )
        self._lost = Counter("llmops_texts_lost", "Answers whose features are lost.", ("reason",), registry=registry)
        registry.register(_EngineCollector(models))

    def count(self, fields: Mapping[str, Any]) -> None:
        """Count a request by the fields of its event."""
        path, version = fields["url.path"], fields.get("llmops.model.version", "")
        self._requests.labels(path, fields["http.response.status_code"], version).inc()
        if fields["event.outcome"] == "success":
            self._duration.labels(path, version).observe(fields["event.duration"] / 1e9)
        if first := fields.get("llmops.time_to_first_token"):
            self._first.labels(path, version).observe(first / 1e9)
        for kind in ("input", "output"):
            self._tokens.labels(kind, version).inc(fields.get(f"gen_ai.usage.{kind}_tokens", 0))
        for rule in fields.get("llmops.guard.rules", ()):
            self._cut.labels(rule, version).inc()

    def count_lost(self, reason: str, count: int) -> None:
        """Count answers whose features are lost."""
        self._lost.labels(reason).inc(count)

    def export(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _make_histogram(name: str, help: str, buckets: Sequence[float], registry: CollectorRegistry) -> Histogram:
    name = f"gen_ai_server_{name}_seconds"
    return Histogram(name, help, ("path", "version"), buckets=buckets, registry=registry)


class _EngineCollector(Collector):
    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        gauges = {
            "alive": GaugeMetricFamily("llmops_engine_alive", "1 if the engine can answer.", labels=("version",)),
            "running": GaugeMetricFamily("llmops_engine_running", "Requests being answered.", labels=("version",)),
            "waiting": GaugeMetricFamily("llmops_engine_waiting", "Requests that wait.", labels=("version",)),
        }
        for loaded in self._models.loaded:
            stats = loaded.engine.get_stats()
            for name, gauge in gauges.items():
                gauge.add_metric((loaded.version.name,), float(getattr(stats, name)))
        return gauges.values()
