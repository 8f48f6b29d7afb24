"""The sinks that the configuration names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from llmops.config import Monitoring
from llmops.monitoring.sinks.base import Sink
from llmops.monitoring.sinks.elasticsearch import ElasticsearchSink
from llmops.monitoring.sinks.local import LocalStore


def sinks_for(folder: Path, config: Monitoring, environ: Mapping[str, str] = os.environ) -> list[Sink]:
    """The configured sinks; the Elasticsearch key is read from `ELASTICSEARCH_API_KEY`."""
    sinks: list[Sink] = []
    for name in dict.fromkeys(config.sinks):
        if name == "local":
            sinks.append(LocalStore(folder, config))
        else:
            key = environ.get("ELASTICSEARCH_API_KEY", "")
            sinks.append(ElasticsearchSink.connect(config.elasticsearch_url, config.elasticsearch_index, key))
    return sinks
