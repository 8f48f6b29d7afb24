"""Our events in a real Elasticsearch: templates, roles, every field, and the query of every panel."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from elasticsearch import Elasticsearch, helpers

from llmops import cli
from llmops.config import Config, Monitoring, SearchServer, load
from llmops.data.retrieval import elasticsearch_store
from llmops.data.retrieval.search import open_index
from llmops.events.datasets import DATASETS, SERVING, TEXT
from llmops.events.events import emit, format_timestamp
from llmops.events.fields import FIELDS
from llmops.events.reader import make_reader
from llmops.events.shipping import drain_spool
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts.rule_checker import build_alert_report
from llmops.monitoring.drift.sample import read_event_sample
from llmops.monitoring.elk import setup
from llmops.monitoring.elk.setup import STREAMS
from serving.observe.dashboard import read_dashboard
from tests.serving.test_grounding import make_index

from .conftest import ADMIN, LOADS, READS, SEARCHES, WRITES
from .known import DAY, make_known_events
from .test_files import LONGEST

Ask = Callable[..., Any]
ROOT = Path(__file__).parents[3]
TEMPLATES = ["index template llmops-events", "index template llmops-texts"]
NUMBERS = {"long", "double"}
#: which fields an operation of Lens can be of; those that are not here are of numbers
COUNTABLE = {
    "count": {""},
    "filters": {""},
    "date_histogram": {"date"},
    **dict.fromkeys(("terms", "unique_count"), {"keyword", "long", "boolean", "ip"}),
}
ADDED_UP = {
    *(f"gen_ai.usage.{side}_tokens" for side in ("input", "output")), "llmops.audit.count",
    "llmops.erasure.documents", "llmops.erasure.remaining", "llmops.retention.freed",
    *(f"llmops.improvement.{name}" for name in ("corrections", "accepted", "refused")),
}  # fmt: skip
STATES = (
    "llmops.sink.waiting", "llmops.sink.rejected", "llmops.improvement.waiting", "llmops.drift.windows",
    "llmops.canary.share", "llmops.attempt", "llmops.decay.items",
)  # fmt: skip
INDEXED = {field.name: field.type for field in FIELDS if field.type != "object"}


# --- setting up; these run in their order, on a server that is empty at first


def test_what_is_made_is_said_and_what_the_server_lacks_is_said_too(config: Monitoring, ask: Ask) -> None:
    steps = {one.step: one for one in setup.run_setup(config, ADMIN)}
    assert {steps[name].outcome for name in [*TEMPLATES, "mapping of existing data streams"]} == {"done"}
    retention = steps["retention of data streams"]
    assert retention.outcome == "cannot" and "no lifecycle" in retention.reason
    template = ask("GET", "/_index_template/llmops-events")["index_templates"][0]["index_template"]
    ask("PUT", "/_index_template/llmops-events", template | {"priority": template["priority"] + 7})
    longer = config.model_copy(update={"elasticsearch_days": 365})
    for settings, days in ((longer, "365d"), (config, "90d")):
        list(setup.run_setup(settings, ADMIN))
        found = ask("GET", "/_index_template/llmops-events")["index_templates"][0]["index_template"]
        assert found["priority"] == template["priority"] and found["template"]["lifecycle"]["data_retention"] == days
    newer = found | {"version": found["version"] + 1, "priority": 7}
    ask("PUT", "/_index_template/llmops-events", newer)
    assert {one.step: one.outcome for one in setup.run_setup(config, ADMIN)}[TEMPLATES[0]] == "newer"
    assert ask("GET", "/_index_template/llmops-events")["index_templates"][0]["index_template"] == newer
    ask("PUT", "/_index_template/llmops-events", template)


def test_the_command_says_each_thing_and_how_it_went(
    secured_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMOPS_MONITORING__ELASTICSEARCH_URL", secured_server)
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["elk", "setup"]) == setup.EXIT_INCOMPLETE  # this server has its roles from a file, and none by API
    assert "done       index template llmops-events\n" in capsys.readouterr().out
    assert cli.main(["elk", "setup", "--json"]) == setup.EXIT_INCOMPLETE
    assert {"thing": TEMPLATES[0], "what": "done", "why": ""} in json.loads(capsys.readouterr().out)
    monkeypatch.setenv("ELASTIC_PASSWORD", "wrong!")
    assert cli.main(["elk", "setup"]) == 1 and "ELASTIC_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("LLMOPS_MONITORING__ELASTICSEARCH_URL", "http://127.0.0.1:9")
    assert cli.main(["elk", "setup"]) == 75


def test_without_a_server_it_is_said_what_to_set() -> None:
    with pytest.raises(ConfigError, match="elasticsearch_url"):
        list(setup.run_setup(Monitoring(), {}))


# --- events


def send_bulk(server: str, user: tuple[str, str], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds events as that user, and gives what the server says of each."""
    client = Elasticsearch(server, basic_auth=user, request_timeout=60)
    actions = [
        {"_op_type": "create", "_index": f"logs-{e['event.dataset']}-default", "_id": e["event.id"], "_source": e}
        for e in events
    ]
    return [item["create"] for _, item in helpers.streaming_bulk(client, actions, raise_on_error=False)]


@pytest.fixture(scope="module")
def filled(secured_server: str, ask: Ask) -> Ask:
    """The server with the known events, which its writer has added, twice."""
    config = Monitoring(elasticsearch_url=secured_server)
    list(setup.run_setup(config, ADMIN))
    assert {one["status"] for one in send_bulk(secured_server, WRITES, make_known_events())} == {201}
    assert {one["status"] for one in send_bulk(secured_server, WRITES, make_known_events())} == {409}
    ask("POST", f"/{STREAMS}/_refresh")
    return ask


def test_fields_have_the_types_of_the_registry_in_every_stream_and_nothing_else_is_indexed(filled: Ask) -> None:
    resolved = filled("GET", f"/_resolve/index/{STREAMS}")["data_streams"]
    assert {stream["name"] for stream in resolved} == {f"logs-{dataset}-default" for dataset in DATASETS}
    for dataset in DATASETS:
        (answer,) = [filled("GET", f"/logs-{dataset}-default/_field_caps?fields=*&filters=-metadata")]
        types = {name: set(said) - {"object"} for name, said in answer["fields"].items()}
        assert {name: kinds for name, kinds in types.items() if kinds} == {n: {t} for n, t in INDEXED.items()}


def test_every_value_of_every_event_is_kept_and_found(filled: Ask) -> None:
    """Objects are kept and not searched; a keyword that is longer than Lucene takes is kept, and said to be ignored."""
    for event in make_known_events():
        stream = f"logs-{event['event.dataset']}-default"
        wanted = [{"term": {"event.id": event["event.id"]}}]
        for name, value in event.items():
            if INDEXED.get(name) == "text":
                wanted.append({"match": {name: {"query": str(value)[:30], "operator": "and"}}})
            elif name in INDEXED and value not in (None, []):
                for one in value if isinstance(value, list) else [value]:
                    if len(str(one)) <= LONGEST:
                        wanted.append({"term": {name: one}})
        (hit,) = filled("POST", f"/{stream}/_search", {"query": {"bool": {"filter": wanted}}})["hits"]["hits"]
        assert hit["_source"] == event
        ignored = ["llmops.gate.reasons"] if event["event.dataset"] == "llmops.gate" else []
        assert hit.get("_ignored", []) == ignored


def test_a_field_that_only_a_newer_writer_knows_loses_no_event(secured_server: str, filled: Ask) -> None:
    event = {"@timestamp": f"{DAY}T00:00:00Z", "event.dataset": "llmops.sink", "event.id": "new"}
    event |= {"llmops.new": {"a": 1}}
    (stored,) = send_bulk(secured_server, WRITES, [event])
    path = f"/{stored['_index']}/_doc/new"
    assert stored["status"] == 201 and filled("GET", path)["_source"] == event
    filled("DELETE", f"{path}?refresh=true")


# --- roles


def test_a_writer_adds_and_cannot_read_and_a_reader_reads_and_cannot_write(secured_server: str, filled: Ask) -> None:
    def status(user: tuple[str, str], method: str, path: str, body: Any = None) -> int:
        return httpx.request(method, secured_server + path, json=body, auth=user, timeout=60).status_code

    stream, event = "/logs-llmops.sink-default", {"@timestamp": f"{DAY}T00:00:00Z"}
    (backing,) = [s["backing_indices"][0] for s in filled("GET", f"/_resolve/index{stream}")["data_streams"]]
    assert status(WRITES, "POST", f"{stream}/_search") == 403
    assert status(WRITES, "GET", f"/{backing}/_doc/llmops.sink-0") == 403
    assert status(WRITES, "PUT", f"/{backing}/_doc/llmops.sink-0?if_seq_no=0&if_primary_term=1", event) == 403
    assert status(WRITES, "DELETE", f"/{backing}/_doc/llmops.sink-0") == 403
    assert status(WRITES, "PUT", "/_index_template/llmops-events", {"index_patterns": ["x"]}) == 403
    assert status(WRITES, "POST", "/other/_doc", event) == 403

    assert status(READS, "POST", f"{stream}/_search") == 200
    assert status(READS, "POST", f"{stream}/_doc", event) == 403
    assert status(READS, "DELETE", f"/{backing}") == 403
    assert status(READS, "PUT", f"{stream}/_mapping", {"properties": {"a": {"type": "long"}}}) == 403
    assert status(READS, "POST", "/.security-7/_search") in (403, 404)
    found = httpx.post(f"{secured_server}/*/_search", json={"size": 0}, auth=READS).json()
    assert found["hits"]["total"]["value"] == len(make_known_events())


def test_passages_are_loaded_by_one_user_and_searched_by_another(
    secured_server: str, filled: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def become(loader: tuple[str, str], reader: tuple[str, str]) -> None:
        for part, (name, password) in (("", WRITES), ("READER_", READS), ("PASSAGES_", loader), ("SEARCH_", reader)):
            monkeypatch.setenv(f"ELASTICSEARCH_{part}USER", name)
            monkeypatch.setenv(f"ELASTICSEARCH_{part}PASSWORD", password)

    server, folder = SearchServer(secured_server, "llmops-passages-roles"), make_index(tmp_path, "A kettle.")
    for loader in (READS, WRITES, SEARCHES, (LOADS[0], "wrong!")):
        become(loader, SEARCHES)
        with pytest.raises(ConfigError, match="llmops_passages") as error:
            elasticsearch_store.load_index(server, "ours", folder)
        assert "secret" not in str(error.value) and "wrong!" not in str(error.value)
    become(LOADS, SEARCHES)
    elasticsearch_store.load_index(server, "ours", folder)
    with open_index(folder, server=server) as index:
        assert [hit.passage.text for hit in index.search("kettle")] == ["A kettle."]
    for reader in (WRITES, READS):
        become(LOADS, reader)
        with open_index(folder, server=server) as index, pytest.raises(ConfigError, match="403"):
            index.search("kettle")
    for user in (LOADS, SEARCHES):
        assert httpx.get(f"{secured_server}/logs-llmops.sink-default/_search", auth=user).status_code == 403
    assert httpx.delete(f"{secured_server}/llmops-passages-roles-*", auth=SEARCHES).status_code == 403
    assert elasticsearch_store.is_up_to_date(server, "ours", folder)
    elasticsearch_store.delete_other_indices(server, ["ours"], None)


# --- panels


def list_panels() -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Return title, query and columns of each panel of Lens, from the compiled objects."""
    found = []
    for saved in setup.read_saved_objects():
        for panel in json.loads(saved["attributes"]["panelsJSON"]) if saved["type"] == "dashboard" else []:
            chart = panel["embeddableConfig"]["attributes"]
            assert [view["id"] for view in chart["references"]] == ["llmops-events"] and chart["state"]["filters"] == []
            (layer,) = chart["state"]["datasourceStates"]["formBased"]["layers"].values()
            columns = [layer["columns"][id] for id in layer["columnOrder"]]
            found.append((chart["title"], chart["state"]["query"], columns))
    return found


def test_panels_are_of_fields_that_can_be_counted() -> None:
    (view,) = [saved for saved in setup.read_saved_objects() if saved["type"] == "index-pattern"]
    assert (view["id"], view["attributes"]["title"]) == ("llmops-events", STREAMS)
    assert json.loads(view["attributes"]["fieldFormatMap"]).keys() <= INDEXED.keys()
    for title, _, columns in list_panels():
        for column in columns:
            kind = INDEXED.get(column.get("sourceField", ""), "")
            assert kind in COUNTABLE.get(column["operationType"], NUMBERS), (title, column)


def test_what_happens_is_summed_and_a_state_shows_its_highest_value_as_the_yaml_says() -> None:
    """Two events about ten that wait are no twenty: only what is new in each event may be added up."""
    file = Path(__file__).parents[3] / "docker" / "kibana" / "dashboards.yaml"
    authored = {
        (panel["title"], metric["field"], metric["aggregation"])
        for board in yaml.safe_load(file.read_text(encoding="utf-8"))["dashboards"]
        for panel in board["panels"]
        for metric in panel["lens"]["metrics"]
        if "field" in metric
    }
    compiled = {
        (title, column["sourceField"], column["operationType"])
        for title, _, columns in list_panels()
        for column in columns
        if column.get("sourceField") in INDEXED
        and column["operationType"] not in ("terms", "date_histogram", "filters")
    }
    assert compiled == authored
    by_field = {name: {how for _, field, how in compiled if field == name} for _, name, _ in compiled}
    assert {name for name, hows in by_field.items() if "sum" in hows} == ADDED_UP
    assert all(by_field[name] == {"max"} for name in STATES), by_field


def test_every_panel_finds_what_it_filters_by_and_counts(filled: Ask) -> None:
    for title, query, columns in list_panels():
        filters = [query_filter["input"] for column in columns for query_filter in column["params"].get("filters", [])]
        assert {query_filter["language"] for query_filter in [query, *filters] if query_filter["query"]} <= {"lucene"}
        wanted = [query_filter["query"] for query_filter in filters]
        wanted += [f"_exists_:{column['sourceField']}" for column in columns if column.get("sourceField") in INDEXED]
        for one in wanted:
            parts = [{"query_string": {"query": part}} for part in (query["query"], one) if part]
            found = filled("POST", f"/{STREAMS}/_count", {"query": {"bool": {"filter": parts}}})
            assert found["count"], (title, one)


# --- data streams that are there already


def test_streams_that_exist_get_new_fields(config: Monitoring, filled: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = setup.read_yaml(setup.FIELDS_TEMPLATE)
    newer["version"] += 1
    mappings = newer["template"]["mappings"]
    mappings["_meta"]["version"] += 1
    mappings["properties"] |= {"llmops.new": {"type": "long"}, "llmops.sink.name": {"type": "text"}}
    read = setup.read_yaml
    monkeypatch.setattr(setup, "read_yaml", lambda file: newer if file == setup.FIELDS_TEMPLATE else read(file))
    for _ in range(2):
        list(setup.run_setup(config, ADMIN))
        (drift,) = filled("GET", "/_resolve/index/logs-llmops.drift-default")["data_streams"]
        assert len(drift["backing_indices"]) == 2
    fields = filled("GET", "/logs-llmops.drift-default/_field_caps?fields=llmops.new,llmops.sink.name")["fields"]
    assert set(fields["llmops.new"]) == {"long"} and set(fields["llmops.sink.name"]) == {"keyword", "text"}


# --- what several processes with homes of their own read


def make_config(platform: str) -> str:
    """Return the sinks, as JSON, that the pods have, or what ships events with compose."""
    if platform == "kubernetes":
        lines = (ROOT / "docker" / "kubernetes" / "base" / "serving.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)["LLMOPS_MONITORING__SINKS"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return str(services["elk-events"]["environment"]["LLMOPS_MONITORING__SINKS"])


@pytest.mark.parametrize("place", ["kubernetes", "compose"])
def test_every_pod_reads_what_all_of_them_sent(
    secured_server: str, filled: Ask, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hit in filled("POST", f"/{STREAMS}/_search", {"size": 1000, "_source": False})["hits"]["hits"]:
        filled("DELETE", f"/{hit['_index']}/_doc/{hit['_id']}")  # what other tests need and a dashboard cannot show
    sinks = make_config(place)
    logins = dict(zip(("ELASTICSEARCH_USER", "ELASTICSEARCH_PASSWORD"), WRITES, strict=True))
    logins |= dict(zip(("ELASTICSEARCH_READER_USER", "ELASTICSEARCH_READER_PASSWORD"), READS, strict=True))
    for name, value in logins.items():  # as compose hands them on
        monkeypatch.setenv(name, value)
    settings = {"LLMOPS_MONITORING__SINKS": sinks, "LLMOPS_MONITORING__ELASTICSEARCH_URL": secured_server}
    pods = [load(environ={**settings, "LLMOPS_HOME": str(tmp_path / name)}) for name in ("one", "other")]
    first = datetime(2026, 4 if place == "compose" else 5, 1, tzinfo=UTC)
    for n, pod in enumerate(pods):
        fields = {"@timestamp": format_timestamp(first + timedelta(minutes=n)), "llmops.model.version": f"v{n}"}
        emit(pod.events, SERVING, {**fields, "http.response.status_code": 200, "event.duration": 10**6})
        emit(pod.events, TEXT, fields)
        drain_spool(pod.events, pod.monitoring)
    filled("POST", f"/{STREAMS}/_refresh")
    for pod in pods:
        figures = read_dashboard(make_reader(pod), "1h", 2, first + timedelta(minutes=9))
        assert (figures["totals"]["requests"], set(figures["versions"])) == (2, {"v0", "v1"})
        hour = first, first + timedelta(hours=1)
        assert build_alert_report(pod, *hour)["requests"] == 2
        assert len(read_event_sample(make_reader(pod), *map(format_timestamp, hour))) == 2  # which drift is judged by


# --- Kibana's figures are those of the dashboard


LENS = {"sum": "sum", "max": "max", "min": "min", "average": "avg", "unique_count": "cardinality"}


def read_panel(ask: Ask, title: str, first: datetime) -> dict[tuple[Any, ...], Any]:
    """Return a panel's figures of one hour, as Lens counts them: buckets and how a field is counted → value."""
    ((query, columns),) = [(query, columns) for name, query, columns in list_panels() if name == title]
    aggs: dict[str, Any] = {}
    for column in columns:
        how, field, asked = column["operationType"], column.get("sourceField"), column.get("params") or {}
        if how in ("percentile", "median"):
            aggs[f"p{asked.get('percentile', 50)} {field}"] = {
                "percentiles": {"field": field, "percents": [asked.get("percentile", 50)]}
            }
        elif how in LENS:
            aggs[f"{how} {field}"] = {LENS[how]: {"field": field}}
    for column in reversed(columns):
        asked = column.get("params") or {}
        if column["operationType"] == "terms":
            missing = {"missing": ""} if asked.get("missingBucket") else {}
            of: dict[str, Any] = {"terms": {"field": column["sourceField"], "size": asked["size"], **missing}}
        elif column["operationType"] == "filters":
            named = {one["label"]: {"query_string": {"query": one["input"]["query"]}} for one in asked["filters"]}
            of = {"filters": {"filters": named}}
        else:
            continue
        aggs = {"bucket": {**of, "aggs": aggs}}
    hour = {"gte": format_timestamp(first), "lt": format_timestamp(first + timedelta(hours=1))}
    within = [{"query_string": {"query": query["query"]}}, {"range": {"@timestamp": hour}}]
    body = {"size": 0, "query": {"bool": {"filter": within}}, "aggs": aggs}
    answer = ask("POST", f"/{STREAMS}/_search", body)
    return dict(list_figures({"doc_count": answer["hits"]["total"]["value"], **answer["aggregations"]}))


def list_figures(found: dict[str, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each figure of an answer's aggregations, with the buckets that it is in."""
    buckets = found.get("bucket", {}).get("buckets", [])
    for key, bucket in buckets.items() if isinstance(buckets, dict) else [(one["key"], one) for one in buckets]:
        yield from list_figures(bucket, (*path, key))
    yield (*path, "count"), found["doc_count"]
    for name, figure in found.items():
        if isinstance(figure, dict) and name != "bucket":
            yield (*path, name), figure["value"] if "value" in figure else next(iter(figure["values"].values()))


def test_panels_and_the_dashboard_give_the_same_figures_for_the_same_requests(
    secured_server: str, filled: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICSEARCH_USER", WRITES[0])
    monkeypatch.setenv("ELASTICSEARCH_PASSWORD", WRITES[1])
    config = Config(
        home=tmp_path, monitoring=Monitoring(sinks=("local", "elasticsearch"), elasticsearch_url=secured_server)
    )
    first = datetime(2026, 6, 1, tzinfo=UTC)
    for n in range(400):  # of a hundred requests two are refused and eight fail, six of these late in their answer
        status = {7: 429, 8: 422, 13: 503, 14: 503}.get(n % 100, 500 if n % 100 >= 94 else 200)
        fields: dict[str, Any] = {
            "@timestamp": format_timestamp(first + timedelta(seconds=n)),
            "http.request.id": f"r{n}",
            "http.response.status_code": status,
            "event.duration": (n % 100 + 1) * 10**6,
            "llmops.key.prefix": f"k{n % 3}",
        }
        if status in (200, 500):
            fields |= {"llmops.model.version": f"v{n % 4 // 3}", "llmops.time_to_first_token": (n % 100 + 1) * 10**5}
            fields |= {"llmops.queue_time": (n % 100 + 1) * 10**4, "gen_ai.usage.input_tokens": n}
            fields |= {"gen_ai.usage.output_tokens": 2 * n}
        emit(config.events, SERVING, fields)
    drain_spool(config.events, config.monitoring)
    filled("POST", f"/{STREAMS}/_refresh")
    local = config.model_copy(update={"monitoring": Monitoring()})  # counts by itself, with another histogram
    shown = read_dashboard(make_reader(local), "1h", 2, first + timedelta(minutes=10))
    total = shown["totals"]

    by_status = read_panel(filled, "Requests by status", first)
    assert {key[0]: figure for key, figure in by_status.items()} == {
        200: 360, 422: 4, 429: 4, 500: 24, 503: 8, "count": 400,
    }  # fmt: skip
    assert (total["requests"], total["answered"], total["refused"], total["failed"]) == (400, 360, 8, 32)
    share = read_panel(filled, "Share of requests that fail", first)
    assert share["failed", "count"] / (share["failed", "count"] + share["answered", "count"]) == total["error_rate"]
    tokens = read_panel(filled, "Tokens", first)
    for side in ("input", "output"):
        assert tokens[f"sum gen_ai.usage.{side}_tokens",] == total[f"{side}_tokens"]
    for title, field, name, percents in (
        ("Latency", "event.duration", "latency_ms", (50, 95, 99)),
        ("Time to first token", "llmops.time_to_first_token", "first_token_ms", (50, 95)),
        ("Time in the queue", "llmops.queue_time", "queue_ms", (95,)),
    ):
        figures = read_panel(filled, title, first)
        for p in percents:
            assert figures[f"p{p} {field}",] / 1e6 == pytest.approx(total[name][f"p{p}"], rel=0.02), (title, p)
    side_by_side = read_panel(filled, "Versions side by side", first)
    by_version = read_panel(filled, "Latency by version", first)
    assert set(shown["versions"]) == {"v0", "v1"}
    for version, stats in shown["versions"].items():
        assert side_by_side[version, "", "count"] == stats["answered"]  # of no side of a canary
        p95 = pytest.approx(stats["latency_ms"]["p95"] * 1e6, rel=0.02)
        assert side_by_side[version, "", "p95 event.duration"] == p95 == by_version[version, "p95 event.duration"]
