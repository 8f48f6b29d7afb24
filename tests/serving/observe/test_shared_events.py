"""Two serving processes with homes of their own and one Elasticsearch: one dashboard, one report."""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from llmops.config import Config
from llmops.errors import EventsUnavailable
from llmops.monitoring.objectives import report


@pytest.fixture
def sites(tmp_path, event_server, new_site):
    """The same registry and database, two homes."""
    first = new_site(tmp_path / "a").release()
    second = object.__new__(type(first))
    second.keys, second.store, second.engines = first.keys, first.store, {}
    shared = {
        "state": {"url": f"sqlite:///{tmp_path / 'a' / 'state.db'}"},
        "release": {"registry": first.config.release.registry},
        "monitoring": {"sinks": ("elasticsearch",), "elasticsearch_url": event_server, "min_requests": 5},
        "serving": first.config.serving.model_dump(),
    }
    first.config, second.config = (Config(home=tmp_path / home, **shared) for home in ("a", "b"))
    return first, second


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
        until, found = datetime.now(UTC) + timedelta(minutes=5), []

        def told():
            """Look at both dashboards and the report; a stream that has just been made has no shard to be read."""
            headers = sites[0].headers("developer")
            answers = [client.get("/dashboard/data?span=24h", headers=headers) for client in clients]
            try:
                found[:] = [*(answer.json() for answer in answers), report(sites[0].config, since, until)]
            except EventsUnavailable:
                return False
            if {answer.status_code for answer in answers} != {200}:
                return False
            return (found[2]["requests"], found[0]["versions"].get("v1", {}).get("up")) == (12, 2)

        sites[0].until(told)
    one, other, recent = found
    assert (recent["requests"], recent["answered"], recent["refused"]) == (12, 10, 2)
    assert all(one[name] == other[name] for name in ("totals", "series", "versions"))
    assert one["totals"]["requests"] == 12 and one["versions"]["v1"]["up"] == 2
    assert recent["latency_ms"] == report(sites[1].config, since, until)["latency_ms"]
    assert recent["latency_ms"]["p95"] > 0 and recent["judged"]
