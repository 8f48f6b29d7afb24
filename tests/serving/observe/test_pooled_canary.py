"""Two serving processes with homes of their own, one database and one Elasticsearch: a canary is judged by what both
have counted, and both dashboards tell of it."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa

from llmops.errors import EventsUnavailable
from llmops.monitoring.datasets import CANARY
from llmops.monitoring.elasticsearch_reader import ElasticsearchReader
from llmops.monitoring.objectives import report
from llmops.registry.aliases import Canary
from llmops.registry.registry import registry_of
from llmops.release import trials
from llmops.release.canary import FIRST
from llmops.state.database import database_of
from llmops.state.tables import audit, trial_counts
from serving.models.trial import answered_by_canary

from ...event_server import answers, free_port

SHARE = 0.5
SERVE = """
from llmops.config import load
from serving.app import serve
from serving.engines.echo import EchoEngine
serve(load(), lambda version: EchoEngine(fail_on="bad" if version.name == "v2" else ""))
"""


class Process:
    """A serving process whose v2 fails at the word "bad"."""

    def __init__(self, site, settings):
        self.site, self.port, self._log = site, free_port(), site.config.home / "log"
        self._file = site.config.home / "config.yaml"
        serving = {**site.config.serving.model_dump(mode="json"), "port": self.port}
        self._file.write_text(json.dumps({"home": str(site.config.home), **settings, "serving": serving}))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self._process = None
        self.asked = 0

    def start(self):
        environ = {**os.environ, "LLMOPS_CONFIG": str(self._file)}
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([sys.executable, "-c", SERVE], env=environ, stdout=log, stderr=log)
        answers(f"http://127.0.0.1:{self.port}/readyz")

    def kill(self):
        self._process.kill()
        self._process.wait()

    def ask(self, prompt, key="", **headers):
        self.asked += 1
        headers = {"X-API-Key": key or self.site.keys["admin"], **headers}
        return self.http.post("/generate", json={"prompt": prompt}, headers=headers)

    def versions(self, prompt, keys):
        """Which versions answer these callers."""
        found = [self.ask(prompt, key) for key in keys]
        assert {answer.status_code for answer in found} == {200}
        return {answer.json()["model_version"] for answer in found}

    def has_canary(self):
        return self.ask("good", **{"X-Llmops-Side": "canary"}).status_code == 200

    def get(self, path):
        answer = self.http.get(path, headers=self.site.headers("admin"))
        return answer.json() if answer.status_code == 200 else None


@pytest.fixture
def database(request, tmp_path):
    """A database that both reach: of each kind once."""
    return (
        request.getfixturevalue("postgresql")() if request.param == "postgresql" else f"sqlite:///{tmp_path}/state.db"
    )


@pytest.fixture
def processes(tmp_path, database, event_server, new_site):
    """Two that answer."""
    settings = {
        "state": {"url": database},
        "release": {"registry": str(tmp_path / "registry")},
        "monitoring": {"sinks": ["elasticsearch"], "elasticsearch_url": event_server, "min_requests": 5},
    }
    sites = [new_site(tmp_path / home, settings) for home in ("a", "b")]
    sites[0].release()
    with ExitStack() as stack:
        made = [Process(site, settings) for site in sites]
        for one in made:
            one.start()
            stack.callback(one.kill)
        yield made


@pytest.fixture
def callers(processes):
    """Keys of callers that a trial of v2 draws to the canary, and of others."""
    keys = [processes[0].site.store.create("user", f"caller {n}") for n in range(100)]
    drawn = [answered_by_canary(key.prefix, Canary("v2", SHARE, "")) for _, key in keys]
    return tuple([text for (text, _), ours in zip(keys, drawn, strict=True) if ours is side] for side in (True, False))


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def begin(processes):
    """Start a canary through one of them, and wait until both have it."""
    body = {"version": "v2", "share": SHARE}
    headers = processes[0].site.headers("admin")
    assert processes[0].http.post("/admin/canary", json=body, headers=headers).status_code == 200
    until(lambda: all([one.has_canary() for one in processes]))


def counted(process):
    """Requests of the canary and the champion that all have counted, as one process tells them."""
    canary = process.get("/admin/models")["canary"]
    return (canary["canary"]["requests"], canary["champion"]["requests"]) if canary else None


def each(site):
    """What each process has counted: requests of the canary and how many of them failed."""
    with database_of(site.config).read() as connection:
        rows = [trials.Sides.of(row.counts).canary for row in connection.execute(sa.select(trial_counts.c.counts))]
    return sorted((one.requests, one.failed) for one in rows)


def told(processes, since, requests):
    """The decision, once and the same wherever it is told: registry, audit, event, both dashboards and reports."""
    config = processes[0].site.config
    registry = registry_of(config)
    (decision,) = [one for one in registry.decisions("v2") if one["kind"] == "canary"]
    end = registry.history()[-1]
    assert decision["outcome"] == "rolled back" and decision["by"] == end["by"] == "serving"
    assert decision["numbers"] == end["numbers"] and decision["why"] in end["why"] and "canary" not in end["aliases"]
    with database_of(config).read() as connection:
        noted = connection.execute(sa.select(audit).where(audit.c.action == "canary_stop")).all()
    assert [(one.by, one.target, decision["why"] in one.fields["why"]) for one in noted] == [("serving", "v2", True)]

    def reports():
        """Of each process; none while a stream that has just been made has no shard to be read."""
        try:
            return [report(one.site.config, since, datetime.now(UTC) + timedelta(minutes=5)) for one in processes]
        except EventsUnavailable:
            return []

    until(lambda: {one["requests"] for one in reports()} == {requests})
    first, second = reports()
    assert first["versions"] == second["versions"] and first["latency_ms"] == second["latency_ms"]

    def ended():
        shown = processes[0].get("/dashboard/data") or {"canaries": []}
        return any(one["time"] >= since.isoformat() for one in shown["canaries"])

    until(ended)
    one, other = (process.get("/dashboard/data?span=24h") for process in processes)
    for part in ("totals", "series", "versions", "canaries"):
        assert one[part] == other[part]
    (shown,) = [canary for canary in one["canaries"] if canary["time"] >= since.isoformat()]
    assert (shown["outcome"], shown["why"], shown["numbers"]) == ("rolled back", decision["why"], decision["numbers"])
    reader = ElasticsearchReader.connect(config.monitoring.elasticsearch_url, {})
    (event,) = reader.find(CANARY, since.isoformat())
    assert event["llmops.canary.numbers"] == decision["numbers"]
    return decision["numbers"]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_a_killed_process_had_counted_pulls_the_canary_in_the_other(processes, callers):
    """Neither has requests enough for a look at them; together they have."""
    (a, b), (drawn, others), since = processes, callers, datetime.now(UTC)
    begin(processes)
    enough = FIRST - 4
    assert a.versions("bad day", drawn[:enough]) == a.versions("good day", others[:10]) == {"v1"}
    until(lambda: counted(b) == (enough, 10))
    a.kill()
    assert b.versions("good day", others[10:20]) == {"v1"}
    until(lambda: counted(b) == (enough, 20))
    assert b.versions("bad day", drawn[enough : 2 * enough]) == {"v1"}
    until(lambda: counted(b) is None)
    until(lambda: not b.has_canary())
    a.start()
    assert not a.has_canary() and a.versions("good day", drawn[:3]) == b.versions("good day", drawn[:3]) == {"v1"}
    numbers = told(processes, since, a.asked + b.asked)
    (later, _), (earlier, _) = counts = each(a.site)
    assert later <= earlier == enough < FIRST <= later + earlier and all(bad == asked for asked, bad in counts)
    canary, champion = numbers["canary"], numbers["champion"]
    assert canary["requests"] == canary["failed"] == later + earlier and champion["requests"] == 20
    assert "blatant" in numbers["worse"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_process_that_sees_only_good_answers_stops_with_the_other(processes, callers):
    (a, b), (drawn, others), since = processes, callers, datetime.now(UTC)
    begin(processes)
    assert a.versions("good day", drawn[:12]) == {"v2"} and a.versions("good day", others[:12]) == {"v1"}
    until(lambda: counted(b) == (12, 12))
    for n in range(12, min(map(len, callers))):
        if not counted(b):
            break
        assert b.versions("bad day", drawn[n : n + 1]) == b.versions("good day", others[n : n + 1]) == {"v1"}
    until(lambda: counted(a) is None)
    until(lambda: not any([one.has_canary() for one in processes]))
    assert a.versions("good day", drawn[:12]) == b.versions("bad day", drawn[12:24]) == {"v1"}
    numbers = told(processes, since, a.asked + b.asked)
    counts = each(a.site)
    assert (12, 0) in counts and len(counts) == 2
    assert numbers["canary"]["requests"] - 12 == numbers["canary"]["failed"] == sum(bad for _, bad in counts)
