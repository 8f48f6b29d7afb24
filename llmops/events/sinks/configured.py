"""The sinks that the configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from llmops.config import Monitoring
from llmops.events.elasticsearch_client import login_of
from llmops.events.sinks.base import Sink
from llmops.events.sinks.elasticsearch import ElasticsearchSink
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.logstash import LogstashSink
from llmops.events.sinks.otlp import OtlpSink
from llmops.frame.errors import ConfigError


def sinks_for(folder: Path, config: Monitoring, environ: Mapping[str, str] = os.environ) -> list[Sink]:
    """Return the configured sinks; nothing is sent yet.

    Secrets come from the environment: `ELASTICSEARCH_API_KEY`, or `ELASTICSEARCH_USER` and `ELASTICSEARCH_PASSWORD`;
    `LOGSTASH_USER` and `LOGSTASH_PASSWORD`; `OTEL_EXPORTER_OTLP_HEADERS`.

    Raises:
        ConfigError: if a variable cannot be parsed.
    """

    def value(name: str) -> str:
        return environ.get(name, "").strip()

    def elasticsearch() -> Sink:
        return ElasticsearchSink.connect(config.elasticsearch_url, login_of(environ, "ELASTICSEARCH_"), config.ca_file)

    def logstash() -> Sink:
        return LogstashSink(config.logstash_url, value("LOGSTASH_USER"), value("LOGSTASH_PASSWORD"), config.ca_file)

    def otlp() -> Sink:
        return OtlpSink(config.otlp_url, _headers(value("OTEL_EXPORTER_OTLP_HEADERS")), config.ca_file)

    make: dict[str, Callable[[], Sink]] = {
        "local": lambda: LocalStore(folder, config),
        "elasticsearch": elasticsearch,
        "logstash": logstash,
        "otlp": otlp,
    }
    return [make[name]() for name in dict.fromkeys(config.sinks)]


def _headers(text: str) -> dict[str, str]:
    """Parse `name=value,name=value` with URL-encoded values, OpenTelemetry's format of headers in the environment."""
    headers = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError("OTEL_EXPORTER_OTLP_HEADERS: write it as NAME=VALUE,NAME=VALUE, values URL-encoded.")
        headers[name.strip()] = unquote(value.strip())
    return headers
