"""An app whose answers get slow: the webhook and the mail tell of it, and of its end."""

import json
from collections.abc import Callable
from typing import Any

from llmops.config import Config
from llmops.monitoring.datasets import ALERT, SERVING
from llmops.monitoring.events import emit_all


def answer(site: Any, count: int, ms: int) -> None:
    """Add the events of so many answers that took so long."""
    fields = {"http.response.status_code": 200, "event.duration": ms * 1_000_000, "url.path": "/generate"}
    emit_all(site.config.events, SERVING, [fields] * count)


def test_slow_answers_alert_until_they_end(site: Any, hook: Any, smtp: Callable[[bool], Any], free_port: int) -> None:
    box = smtp(False)
    mail = f"mailto://127.0.0.1:{free_port}/?mode=insecure&from=bot@example.com&to=ops@example.com"
    receivers = [{"name": "chat", "url": hook.url.replace("http", "json")}, {"name": "mail", "url": mail}]
    alerts = {"every_s": 0.1, "resolve_minutes": 0.001, "disk_free": 0, "receivers": receivers}
    site.config = Config(**{**site.config.model_dump(), "alerts": alerts})
    with site.client():
        answer(site, 60, ms=1600)
        site.until(lambda: hook.got and box.got)
        answer(site, 2000, ms=100)  # in the same window, whose 95th percentile is good again
        site.until(lambda: len(hook.got) > 1 and len(box.got) > 1)
        told = [json.loads(body) for _, _, body in hook.got]
        assert [(t["state"], t["rule"]) for t in told] == [("raised", "latency_p95"), ("resolved", "latency_p95")]
        assert told[0]["value"] > 1500 and told[0]["bound"] == 1000 and told[0]["alert"] == told[1]["alert"]
        assert [message["Subject"].split()[0] for message in box.got] == ["[raised]", "[resolved]"]
    assert [event["llmops.alert.state"] for event in site.events(ALERT)] == ["raised", "resolved"]
