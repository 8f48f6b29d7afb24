"""Two serving processes with homes of their own and one Elasticsearch: one dashboard, one report."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from llmops.errors import EventsUnavailable
from llmops.monitoring.objectives import report


@pytest.fixture
def sites(tmp_path, event_server, new_site):
    """The same registry and database, two homes."""
    shared = {
        "state": {"url": f"sqlite:///{tmp_path / 'state.db'}"},
        "release": {"registry": tmp_path / "registry"},
        "monitoring": {"sinks": ("elasticsearch",), "elasticsearch_url": event_server, "min_requests": 5},
    }
    first, second = (new_site(tmp_path / home, shared) for home in ("a", "b"))
    return first.release(), second


def test_two_processes_show_one_dashboard_and_one_report(sites):
    since = datetime.now(UTC)
    with ExitStack() as stack:
        clients = [stack.enter_context(site.client()) for site in sites]
        for site, client, count in zip(sites, clients, (6, 4), strict=True):
            site.ready(client)
            ids = [site.ask(client).headers["X-Request-ID"] for _ in range(count)]
            assert site.ask(client, prompt="").status_code == 422
            said = {"id": ids[0], "rating": "up"}
            assert client.post("/feedback", json=said, headers=site.headers()).status_code == 201

        def told():
            """Both dashboards and the report; none while a stream that has just been made has no shard to be read."""
            answers = [
                client.get("/dashboard/data?span=24h", headers=site.headers("developer"))
                for site, client in zip(sites, clients, strict=True)
            ]
            try:
                told = report(sites[0].config, since, until)
            except EventsUnavailable:
                return None
            return (*(answer.json() for answer in answers), told) if all(a.is_success for a in answers) else None

        until, end = datetime.now(UTC) + timedelta(minutes=5), time.monotonic() + 60
        while True:
            found = told()
            if found and (found[2]["requests"], found[0]["versions"].get("v1", {}).get("up")) == (12, 2):
                break
            assert time.monotonic() < end, found
            time.sleep(0.2)
    one, other, recent = found
    assert (recent["requests"], recent["answered"], recent["refused"]) == (12, 10, 2)
    assert (
        one["totals"] == other["totals"] and one["series"] == other["series"] and one["versions"] == other["versions"]
    )
    assert one["totals"]["requests"] == 12 and one["versions"]["v1"]["up"] == 2
    assert recent["latency_ms"] == report(sites[1].config, since, until)["latency_ms"]
    assert recent["latency_ms"]["p95"] > 0 and recent["judged"]
