"""Our events in a real Elasticsearch: templates, roles, every field, and the query of every panel."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from elasticsearch import Elasticsearch, helpers

from llmops import cli
from llmops.config import Config, Monitoring
from llmops.data.index.elasticsearch import opener
from llmops.data.index.filling import clear, serve
from llmops.elk import kibana, setup
from llmops.elk.objects import STREAMS, mappings
from llmops.errors import ConfigError, IndexRefused, TransientError
from llmops.monitoring.datasets import DATASETS
from llmops.monitoring.fields import FIELDS, LONGEST_KEYWORD
from llmops.registry.indexes import served_index
from llmops.registry.registry import registry_of

from ..documents import DAY, SAID, indexed
from .conftest import ADMIN, INDEXES, READS, WRITES
from .known import EVENTS, FIRST, known
from .lens import Panel, panels, rows, search
from .shown import SHOWN

Ask = Callable[..., Any]
TEMPLATES = ["index template llmops-events", "index template llmops-texts"]
PANELS = {(panel.dashboard, panel.title): panel for panel in panels(kibana.saved_objects())}
INDEXED = {field.name: field.type for field in FIELDS if field.type != "object"}


def said(steps: Any) -> dict[str, str]:
    return {one.thing: one.what for one in steps}


def templates_of(steps: Any) -> list[str]:
    whats = said(steps)
    return [whats[name] for name in TEMPLATES]


# --- setting up; these run in their order, on a server that is empty at first


def test_what_is_made_is_said_and_made_once_and_what_the_server_lacks_is_said_too(config: Monitoring) -> None:
    assert templates_of(setup.check(config, ADMIN)) == ["missing"] * 2
    first = list(setup.setup(config, ADMIN))
    assert {said(first)[name] for name in TEMPLATES} == {"created"}
    (why,) = [one.why for one in first if one.thing == "retention of data streams"]
    assert "no lifecycle" in why and setup.status(first) == setup.INCOMPLETE
    again = said(setup.setup(config, ADMIN))
    assert {again[name] for name in [*TEMPLATES, "mapping of existing data streams"]} == {"unchanged"}
    assert templates_of(setup.check(config, ADMIN)) == ["ok"] * 2


def test_another_configuration_and_another_hand_are_seen_and_put_right(config: Monitoring, ask: Ask) -> None:
    list(setup.setup(config, ADMIN))
    longer = config.model_copy(update={"elasticsearch_days": 365})
    assert templates_of(setup.check(longer, ADMIN)) == ["differs", "ok"]
    assert templates_of(setup.setup(longer, ADMIN)) == ["changed", "unchanged"]
    assert templates_of(setup.setup(config, ADMIN)) == ["changed", "unchanged"]

    template = ask("GET", "/_index_template/llmops-events")["index_templates"][0]["index_template"]
    assert template["_meta"]["managed_by"] == "llmops" and template["_meta"]["version"]
    template["template"]["mappings"]["properties"]["event.duration"] = {"type": "keyword"}
    ask("PUT", "/_index_template/llmops-events", template)
    assert said(setup.check(config, ADMIN))[TEMPLATES[0]] == "differs"
    assert said(setup.setup(config, ADMIN))[TEMPLATES[0]] == "changed"


def test_what_was_made_is_taken_down_and_can_be_made_again(config: Monitoring) -> None:
    list(setup.setup(config, ADMIN))
    assert templates_of(setup.down(config, False, ADMIN)) == ["removed"] * 2
    assert templates_of(setup.down(config, False, ADMIN)) == ["unchanged"] * 2
    assert templates_of(setup.check(config, ADMIN)) == ["missing"] * 2
    assert templates_of(setup.setup(config, ADMIN)) == ["created"] * 2


def test_the_command_says_each_thing_and_how_it_went(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMOPS_MONITORING__ELASTICSEARCH_URL", server)
    for name, value in ADMIN.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["elk", "setup"]) == cli.main(["elk", "setup"]) == setup.INCOMPLETE
    assert "unchanged  index template llmops-events\n" in capsys.readouterr().out
    assert cli.main(["elk", "check", "--json"]) == 1  # this server has its roles from a file, and none by API
    checked = json.loads(capsys.readouterr().out)
    assert {"thing": TEMPLATES[0], "what": "ok", "why": ""} in checked
    assert {"thing": f"role {WRITES[0]}", "what": "missing", "why": ""} in checked
    monkeypatch.setenv("ELASTIC_PASSWORD", "wrong!")
    assert cli.main(["elk", "setup"]) == 1 and "ELASTIC_PASSWORD" in capsys.readouterr().err
    assert cli.main(["elk", "check", "--data"]) == 1 and "down" in capsys.readouterr().err
    monkeypatch.setenv("LLMOPS_MONITORING__ELASTICSEARCH_URL", "http://127.0.0.1:9")
    assert cli.main(["elk", "setup"]) == 75


def test_without_a_server_it_is_said_what_to_set() -> None:
    with pytest.raises(ConfigError, match="elasticsearch_url"):
        list(setup.setup(Monitoring(), {}))
    with pytest.raises(TransientError):
        list(setup.setup(Monitoring(elasticsearch_url="http://127.0.0.1:9"), {}))


# --- events


def bulk(server: str, user: tuple[str, str], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds events as that user, and gives what the server says of each."""
    client = Elasticsearch(server, basic_auth=user)
    actions = [
        {"_op_type": "create", "_index": f"logs-{e['event.dataset']}-default", "_id": e["event.id"], "_source": e}
        for e in events
    ]
    return [item["create"] for _, item in helpers.streaming_bulk(client, actions, raise_on_error=False)]


@pytest.fixture(scope="module")
def filled(server: str, ask: Ask) -> Ask:
    """The server with the known events, which its writer has added, twice."""
    config = Monitoring(elasticsearch_url=server)
    list(setup.setup(config, ADMIN))
    assert {one["status"] for one in bulk(server, WRITES, known())} == {201}
    assert {one["status"] for one in bulk(server, WRITES, known())} == {409}
    ask("POST", f"/{STREAMS}/_refresh")
    return ask


def test_there_is_a_known_event_of_every_dataset() -> None:
    assert EVENTS.keys() == DATASETS.keys()


def test_fields_have_the_types_of_the_registry_in_every_stream_and_nothing_else_is_indexed(filled: Ask) -> None:
    resolved = filled("GET", f"/_resolve/index/{STREAMS}")["data_streams"]
    assert {stream["name"] for stream in resolved} == {f"logs-{dataset}-default" for dataset in DATASETS}
    for dataset in DATASETS:
        (answer,) = [filled("GET", f"/logs-{dataset}-default/_field_caps?fields=*&filters=-metadata")]
        types = {name: set(said) - {"object"} for name, said in answer["fields"].items()}
        assert {name: kinds for name, kinds in types.items() if kinds} == {n: {t} for n, t in INDEXED.items()}


def test_every_value_of_every_event_is_kept_and_found(filled: Ask) -> None:
    """Objects are kept and not searched; no keyword is longer than Lucene takes."""
    for event in known():
        stream = f"logs-{event['event.dataset']}-default"
        wanted = [{"term": {"event.id": event["event.id"]}}]
        for name, value in event.items():
            if INDEXED.get(name) == "text":
                wanted.append({"match": {name: {"query": str(value)[:30], "operator": "and"}}})
            elif name in INDEXED and value not in (None, []):
                for one in value if isinstance(value, list) else [value]:
                    if len(str(one)) <= LONGEST_KEYWORD:
                        wanted.append({"term": {name: one}})
        (hit,) = filled("POST", f"/{stream}/_search", {"query": {"bool": {"filter": wanted}}})["hits"]["hits"]
        assert hit["_source"] == event
        assert not hit.get("_ignored")


def test_a_field_that_only_a_newer_writer_knows_loses_no_event(server: str, filled: Ask) -> None:
    event = {
        "@timestamp": f"{FIRST}T00:00:00Z",
        "event.dataset": "llmops.sink",
        "event.id": "new",
        "llmops.new": {"a": 1},
        "llmops.sink.name": "long" * LONGEST_KEYWORD,  # as one that did not cap it may have spooled it
    }
    (stored,) = bulk(server, WRITES, [event])
    place = f"/{stored['_index']}/_doc/new"
    assert stored["status"] == 201 and filled("GET", place)["_source"] == event
    filled("DELETE", f"{place}?refresh=true")


# --- roles


def test_a_writer_adds_and_cannot_read_and_a_reader_reads_and_cannot_write(server: str, filled: Ask) -> None:
    def status(user: tuple[str, str], method: str, path: str, body: Any = None) -> int:
        return httpx.request(method, server + path, json=body, auth=user, timeout=60).status_code

    stream, event = "/logs-llmops.sink-default", {"@timestamp": f"{FIRST}T00:00:00Z"}
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
    found = httpx.post(f"{server}/*/_search", json={"size": 0}, auth=READS).json()
    assert found["hits"]["total"]["value"] == len(known())


def test_a_writer_who_sets_up_is_told_that_it_may_not(config: Monitoring) -> None:
    longer = config.model_copy(update={"elasticsearch_days": 365, "keep_text_days": 365})
    steps = list(setup.setup(longer, {"ELASTIC_USERNAME": WRITES[0], "ELASTIC_PASSWORD": WRITES[1]}))
    assert templates_of(steps) == ["cannot"] * 2 and "unauthorized" in steps[0].why
    assert setup.status(steps) == setup.INCOMPLETE


# --- panels


def test_every_panel_is_known_and_of_the_one_data_view() -> None:
    assert PANELS.keys() == SHOWN.keys()
    assert all(SHOWN.values()) and {panel.index for panel in PANELS.values()} == {"llmops-events"}
    (view,) = [thing for thing in kibana.saved_objects() if thing["type"] == "index-pattern"]
    assert (view["id"], view["attributes"]["title"]) == ("llmops-events", STREAMS)
    assert json.loads(view["attributes"]["fieldFormatMap"]).keys() <= INDEXED.keys()


@pytest.mark.parametrize("panel", PANELS.values(), ids=lambda panel: f"{panel.dashboard}: {panel.title}")
def test_a_panel_is_of_fields_that_the_registry_has_and_that_can_be_counted(panel: Panel) -> None:
    filters = [f["input"] for column in panel.columns for f in column["params"].get("filters", [])]
    for query in [panel.state["query"]["query"], *(f["query"] for f in filters)]:
        assert set(re.findall(r"_exists_:([\w.]+)", query)) <= INDEXED.keys()
        assert set(re.findall(r"([\w.]+):", query)) - {"_exists_"} <= INDEXED.keys()
        assert {word for word in re.findall(r"[\w.]+", query) if "." in word} <= {*INDEXED, *DATASETS}
    for column in panel.columns:
        kind = INDEXED.get(column.get("sourceField", ""))
        if column["operationType"] in ("terms", "unique_count"):
            assert kind in ("keyword", "long", "boolean", "ip")
        elif column["operationType"] == "date_histogram":
            assert kind == "date"
        elif column["operationType"] not in ("count", "filters"):
            assert kind in ("long", "double")


@pytest.mark.parametrize("panel", PANELS.values(), ids=lambda panel: f"{panel.dashboard}: {panel.title}")
def test_a_panel_shows_what_the_known_events_say(panel: Panel, filled: Ask) -> None:
    found = rows(panel, filled("POST", f"/{STREAMS}/_search", search(panel)))
    assert found == [pytest.approx(row) for row in SHOWN[panel.dashboard, panel.title]]


@pytest.mark.parametrize(("rule", "hits"), zip(kibana.rules(), (3, 1, 1), strict=True), ids=lambda r: str(r)[:60])
def test_the_query_of_an_alert_rule_finds_what_it_is_about(rule: dict[str, Any], hits: int, filled: Ask) -> None:
    found = filled("POST", f"/{','.join(rule['params']['index'])}/_search", rule["params"]["esQuery"])
    assert found["hits"]["total"]["value"] == hits
    names = json.dumps(rule["params"]["esQuery"])
    assert any(name in names for name in INDEXED)


# --- data streams that are there already


def test_streams_that_are_there_get_new_fields_and_those_of_another_type_a_new_index(
    config: Monitoring, filled: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mapping of existing data streams"
    assert said(setup.check(config, ADMIN))[name] == "ok"
    newer = mappings()
    newer["properties"] |= {"llmops.new": {"type": "long"}, "llmops.sink.name": {"type": "text"}}
    for module in ("objects", "elasticsearch"):
        monkeypatch.setattr(f"llmops.elk.{module}.mappings", lambda: newer)
    assert said(setup.check(config, ADMIN))[name] == "differs"
    assert said(setup.setup(config, ADMIN))[name] == "changed"
    assert said(setup.setup(config, ADMIN))[name] == "unchanged"
    fields = filled("GET", "/logs-llmops.drift-default/_field_caps?fields=llmops.new")["fields"]
    assert set(fields["llmops.new"]) == {"long"}


def test_what_streams_use_stays_and_events_are_never_removed_unasked(config: Monitoring, filled: Ask) -> None:
    steps = {one.thing: one for one in setup.down(config, False, ADMIN)}
    assert steps[TEMPLATES[0]].what == "kept" and "--data" in steps[TEMPLATES[0]].why
    unable = {one.thing: one.what for one in setup.down(config, True, ADMIN)}  # this server cannot, and says so
    assert unable[f"events ({STREAMS})"] == "cannot" and unable[TEMPLATES[0]] == "kept"
    assert filled("POST", f"/{STREAMS}/_count")["count"] == len(known())


def test_who_indexes_puts_passages_there_and_a_reader_searches_them_and_cannot_change_them(
    config: Monitoring, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Config(home=tmp_path, index={"backend": "elasticsearch"}, monitoring=config.model_dump())
    artifact, registry = indexed(tmp_path, SAID, model=""), registry_of(whole)

    def log_in(prefix: str, user: tuple[str, str]) -> None:
        monkeypatch.setenv(f"{prefix}USER", user[0])
        monkeypatch.setenv(f"{prefix}PASSWORD", user[1])

    log_in("ELASTICSEARCH_", WRITES)
    with pytest.raises(IndexRefused, match=r"403.*ELASTICSEARCH_INDEXER_API_KEY.*llmops_indexer"):
        serve(registry, artifact, DAY, whole.search_server, by="a test")
    log_in("ELASTICSEARCH_INDEXER_", INDEXES)
    serve(registry, artifact, DAY, whole.search_server, by="a test")
    [name] = [name for name in ask("GET", "/_mapping") if name.startswith("llmops-passages-")]
    folder = served_index(registry)
    assert folder
    with pytest.raises(IndexRefused, match=r"403.*ELASTICSEARCH_READER_API_KEY.*llmops_reader"):
        opener(whole)(folder)
    log_in("ELASTICSEARCH_READER_", READS)
    with opener(whole)(folder) as index:
        assert index.search("How long is the guarantee?", 1)[0].passage.position == "row 2"
    assert httpx.delete(f"{config.elasticsearch_url}/{name}", auth=READS).status_code == 403
    assert httpx.delete(f"{config.elasticsearch_url}/{name}/_doc/0", auth=READS).status_code == 403
    assert httpx.post(f"{config.elasticsearch_url}/logs-llmops.*/_search", auth=INDEXES).json()["hits"]["hits"] == []
    serve(registry, indexed(tmp_path, {"How?": "So."}, model=""), "2026-02-01", whole.search_server, by="a test")
    assert whole.search_server
    clear(whole.search_server, registry)
    [left] = [name for name in ask("GET", "/_mapping") if name.startswith("llmops-passages-")]
    assert left != name
    ask("DELETE", f"/{left}")
