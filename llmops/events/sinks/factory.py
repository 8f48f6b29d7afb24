"""The sinks that the configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from llmops.config import Monitoring
from llmops.events.elasticsearch_client import read_login
from llmops.events.sinks.elasticsearch import ElasticsearchSink
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.logstash import LogstashSink
from llmops.events.sinks.otlp import OtlpSink
from llmops.events.sinks.sink import Sink
from llmops.frame.errors import ConfigError


def make_sinks(folder: Path, config: Monitoring, environ: Mapping[str, str] = os.environ) -> list[Sink]:
    """Return the configured sinks; nothing is sent yet.

    Secrets come from the environment: `ELASTICSEARCH_API_KEY`, or `ELASTICSEARCH_USER` and `ELASTICSEARCH_PASSWORD`;
    `LOGSTASH_USER` and `LOGSTASH_PASSWORD`; `OTEL_EXPORTER_OTLP_HEADERS`.

    Raises:
        ConfigError: if a variable cannot be parsed.
    """

    def read_variable(name: str) -> str:
        return environ.get(name, "").strip()

    def make_elasticsearch() -> Sink:
        return ElasticsearchSink.connect(
            config.elasticsearch_url, read_login(environ, "ELASTICSEARCH_"), config.ca_file
        )

    def make_logstash() -> Sink:
        return LogstashSink(
            config.logstash_url, read_variable("LOGSTASH_USER"), read_variable("LOGSTASH_PASSWORD"), config.ca_file
        )

    def make_otlp() -> Sink:
        return OtlpSink(config.otlp_url, _parse_headers(read_variable("OTEL_EXPORTER_OTLP_HEADERS")), config.ca_file)

    factories: dict[str, Callable[[], Sink]] = {
        "local": lambda: LocalStore(folder, config),
        "elasticsearch": make_elasticsearch,
        "logstash": make_logstash,
        "otlp": make_otlp,
    }
    return [factories[name]() for name in dict.fromkeys(config.sinks)]


def _parse_headers(text: str) -> dict[str, str]:
    """Parse `name=value,name=value` with URL-encoded values, OpenTelemetry's format of headers in the environment."""
    headers = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError("OTEL_EXPORTER_OTLP_HEADERS: write it as NAME=VALUE,NAME=VALUE, values URL-encoded.")
        headers[name.strip()] = unquote(value.strip())
    return headers
