"""An app whose answers get slow: the webhook, the mail and the dashboard tell of it, and of its end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from llmops.config import Config
from llmops.monitoring.datasets import ALERT, SERVING
from llmops.monitoring.events import emit_all

RULES = {"every_s": 0.1, "resolve_minutes": 0.001, "disk_free": 0}


def with_alerts(site: Any, **alerts: Any) -> None:
    site.config = Config(**{**site.config.model_dump(), "alerts": {**RULES, **alerts}})


def answer(site: Any, count: int, ms: int) -> None:
    """Add the events of so many answers that took so long."""
    fields = {"http.response.status_code": 200, "event.duration": ms * 1_000_000, "url.path": "/generate"}
    emit_all(site.config.events, SERVING, [fields] * count)


def test_slow_answers_raise_the_latency_alert_and_fast_ones_resolve_it(
    site: Any, hook: Any, smtp: Callable[[bool], Any], free_port: int
) -> None:
    box = smtp(False)
    mail = {"kind": "email", "host": "127.0.0.1", "port": free_port, "tls": "off", "sender": "bot@example.com"}
    receivers = [
        {"name": "chat", "kind": "webhook", "url": hook.url},
        {"name": "mail", **mail, "to": ["ops@example.com"]},
    ]
    with_alerts(site, receivers=receivers)
    with site.client() as client:
        answer(site, 60, ms=1600)
        site.until(lambda: hook.got and box.got)
        answer(site, 2000, ms=100)  # in the same window, whose 95th percentile is good again
        site.until(lambda: len(hook.got) > 1 and len(box.got) > 1)
        told = [json.loads(body) for _, _, body in hook.got]
        assert [(t["state"], t["rule"]) for t in told] == [("raised", "latency_p95"), ("resolved", "latency_p95")]
        assert told[0]["value"] > 1500 and told[0]["bound"] == 1000 and told[0]["alert"] == told[1]["alert"]
        assert [message["Subject"].split()[0] for message in box.got] == ["[raised]", "[resolved]"]

        def shown() -> list[tuple[str, str, bool]]:
            data = client.get("/dashboard/data", headers=site.headers("developer")).json()
            return [(one["rule"], one["state"], bool(one["resolved"])) for one in data["alerts"]]

        site.until(lambda: shown() == [("latency_p95", "resolved", True)])
    assert [event["llmops.alert.state"] for event in site.events(ALERT)] == ["raised", "resolved"]


def test_without_an_interval_nothing_is_judged(site: Any) -> None:
    with_alerts(site, every_s=0, disk_free=0.9999)
    before = set(threading.enumerate())
    with site.client():
        assert "alerts" not in {thread.name for thread in set(threading.enumerate()) - before}
    assert site.events(ALERT) == []
