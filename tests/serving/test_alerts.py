"""A model that gets slow: the webhook, the mail and the dashboard tell of it, and of its end. In compressed time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.config import Config
from llmops.monitoring.datasets import ALERT
from serving.engines.echo import EchoEngine

FAST_RULES = {"every_s": 0.25, "window_minutes": 0.15, "resolve_minutes": 0.03, "disk_free": 0, "off": ["queue_time"]}


class Slowing(EchoEngine):
    """Takes longer from when it is told to."""

    slower_s = 0.0

    def _step(self, rows: Any) -> None:
        threading.Event().wait(type(self).slower_s)
        super()._step(rows)


@pytest.fixture(autouse=True)
def as_fast_as_ever() -> Iterator[None]:
    Slowing.slower_s = 0.0
    yield
    Slowing.slower_s = 0.0


def engine_of(site: Any) -> Callable[[Any], EchoEngine]:
    def engine_for(version: Any) -> EchoEngine:
        site.engines[version.name] = Slowing()
        return site.engines[version.name]

    return engine_for


def with_alerts(site: Any, **alerts: Any) -> Any:
    site.config = Config(**{**site.config.model_dump(), "alerts": {**FAST_RULES, **alerts}})
    return site


@contextmanager
def load(site: Any, url: str, callers: int = 16) -> Iterator[None]:
    """So many callers ask one question after the other."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(headers=site.headers(), timeout=30) as client:
            while not over.wait(0.05):
                assert client.post(f"{url}/generate", json={"prompt": "hello"}).status_code == 200

    with ThreadPoolExecutor(callers) as pool:
        asking = [pool.submit(ask) for _ in range(callers)]
        try:
            yield
        finally:
            over.set()
        for one in asking:
            one.result()


def test_a_slow_engine_raises_the_latency_alert_and_resolves_it_after(
    site: Any, hook: Any, smtp: Callable[[bool], Any], free_port: int
) -> None:
    box = smtp(False)
    mail = {"kind": "email", "host": "127.0.0.1", "port": free_port, "tls": "off", "sender": "bot@example.com"}
    receivers = [
        {"name": "chat", "kind": "webhook", "url": hook.url},
        {"name": "mail", **mail, "to": ["ops@example.com"]},
    ]
    with_alerts(site, receivers=receivers)
    with site.live(engine_of(site)) as url, load(site, url):
        Slowing.slower_s = 1.5
        site.until(lambda: hook.got and box.got)
        Slowing.slower_s = 0.0
        site.until(lambda: len(hook.got) > 1 and len(box.got) > 1)
        told = [json.loads(body) for _, _, body in hook.got]
        assert [(t["state"], t["rule"]) for t in told] == [("raised", "latency_p95"), ("resolved", "latency_p95")]
        assert told[0]["value"] > 1500 and told[0]["bound"] == 1000 and told[0]["alert"] == told[1]["alert"]
        assert [message["Subject"].split()[0] for message in box.got] == ["[raised]", "[resolved]"]

        def shown() -> list[tuple[str, str, bool]]:
            answer = httpx.get(f"{url}/dashboard/data", headers=site.headers("developer"))
            return [(one["rule"], one["state"], bool(one["resolved"])) for one in answer.json()["alerts"]]

        site.until(lambda: shown() == [("latency_p95", "resolved", True)])
    states = [event["llmops.alert.state"] for event in site.events(ALERT)]
    assert states == ["raised", "resolved"]


def test_steady_load_and_a_slow_first_request_raise_nothing(site: Any, hook: Any) -> None:
    with_alerts(site, receivers=[{"name": "chat", "kind": "webhook", "url": hook.url}])
    Slowing.slower_s = 1.5
    with site.live(engine_of(site)) as url:
        with httpx.Client(headers=site.headers(), timeout=30) as client:
            client.post(f"{url}/generate", json={"prompt": "hello"})
        Slowing.slower_s = 0.0
        with load(site, url):
            site.until(lambda: len(site.events()) > 200)
    assert hook.got == [] and site.events(ALERT) == []


def test_without_an_interval_nothing_is_judged(site: Any, tmp_path: Path) -> None:
    with_alerts(site, every_s=0, disk_free=0.9999)
    with site.client() as client:
        site.ready(client)
    assert site.events(ALERT) == [] and not (tmp_path / "place").exists()
