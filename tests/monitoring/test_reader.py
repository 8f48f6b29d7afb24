"""What events are read from, by the sinks that they go to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.config import Config
from llmops.decay import watch as decay
from llmops.drift import watch as drift
from llmops.errors import ConfigError
from llmops.monitoring.elasticsearch_reader import ElasticsearchReader
from llmops.monitoring.reader import reader_of
from llmops.monitoring.sinks.local import LocalStore

URL = "http://127.0.0.1:1"
URLS = {"logstash_url": URL, "otlp_url": URL}


def config_of(home: Path, *sinks: str, **more: Any) -> Config:
    return Config(home=home, monitoring={"sinks": sinks, **URLS, **more})


@pytest.mark.parametrize(
    ("sinks", "kind"),
    [
        (("local", "elasticsearch"), LocalStore),
        (("elasticsearch",), ElasticsearchReader),
        (("logstash",), ElasticsearchReader),
        (("otlp", "logstash"), ElasticsearchReader),
    ],
)
def test_the_local_store_comes_before_elasticsearch_which_logstash_may_fill(
    tmp_path: Path, sinks: tuple[str, ...], kind: type
) -> None:
    assert type(reader_of(config_of(tmp_path, *sinks, elasticsearch_url=URL), {})) is kind


def test_what_nobody_here_can_read_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for more in ({}, {"elasticsearch_url": URL}):
        with pytest.raises(ConfigError, match="can be read"):
            reader_of(config_of(tmp_path, "otlp", **more))
    config = config_of(tmp_path, "logstash")
    champion = SimpleNamespace(champion=lambda: SimpleNamespace(name="v1"))
    for module, watch in ((drift, drift.watch_drift), (decay, decay.watch_decay)):
        monkeypatch.setattr(module, "registry_of", lambda config: champion)
        assert watch(config)["state"] == "no reader"
