"""What events are read from, by the sinks that they go to."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmops.config import Config
from llmops.events.elasticsearch_reader import ElasticsearchReader
from llmops.events.reader import make_reader
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import ConfigError
from llmops.monitoring.decay import watch as decay
from llmops.monitoring.drift import watch as drift

URL = "http://127.0.0.1:1"


def make_config(home: Path, sinks: tuple[str, ...], elasticsearch_url: str = URL) -> Config:
    urls = {"elasticsearch_url": elasticsearch_url, "logstash_url": URL, "otlp_url": URL}
    return Config(home=home, monitoring={"sinks": sinks, **urls})


def test_elasticsearch_which_logstash_may_fill_comes_before_the_store_of_one_home(tmp_path: Path) -> None:
    for sinks in (("local", "elasticsearch"), ("elasticsearch",), ("local", "logstash"), ("otlp", "logstash")):
        assert type(make_reader(make_config(tmp_path, sinks), {})) is ElasticsearchReader
    for sinks, url in ((("local", "logstash"), ""), (("local", "otlp"), URL), (("local",), URL)):
        assert type(make_reader(make_config(tmp_path, sinks, url), {})) is LocalStore


def test_what_nobody_here_can_read_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("", URL):
        with pytest.raises(ConfigError, match="can be read"):
            make_reader(make_config(tmp_path, ("otlp",), url))
    config = make_config(tmp_path, ("logstash",), "")
    champion = SimpleNamespace(champion=lambda: SimpleNamespace(name="v1"))
    for module, watch in ((drift, drift.watch_drift), (decay, decay.watch_decay)):
        monkeypatch.setattr(module, "registry_of", lambda config: champion)
        assert watch(config)["state"] == "no reader"
