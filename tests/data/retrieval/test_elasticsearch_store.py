"""The served index in a real Elasticsearch: the same passages as by its files, swapped and deleted at once."""

import csv
import itertools
import json
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from llmops.config import Config, Deploy, Index, SearchServer
from llmops.data.index import stage
from llmops.data.retrieval import elasticsearch_store
from llmops.data.retrieval.search import open_index
from llmops.events.elasticsearch_client import make_client
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ConfigError, DeployError, TransientError
from llmops.frame.records import Document, make_content_id, write_rows
from llmops.privacy.erasure.forget import forget_person
from llmops.privacy.erasure.plan import find_interrupted
from llmops.privacy.erasure.subject import Subject
from llmops.release.deploy import stage as deploy
from llmops.release.registry.indexes import find_served_index, make_owner, owner_of
from llmops.release.registry.registry import registry_of
from tests.clock import FakeClock
from tests.conftest import shared
from tests.served import Answer, served

ALIKE = 0.95  #: least share of the five best passages that are the same, on average; docs/grounding.md states it
NUMBERS, OURS = itertools.count(), "ours"
Made = Callable[..., Path]


@pytest.fixture
def server(event_server: str) -> SearchServer:
    return SearchServer(event_server, f"llmops-passages-t{next(NUMBERS)}")


@pytest.fixture
def indexed(tmp_path: Path) -> Made:
    """Return a finished index of texts, or of questions with answers."""

    def run(*texts: str, answers: dict[str, str] | None = None, model: str = "") -> Path:
        parts = [{"text": text} for text in texts] + [{"question": q, "answer": a} for q, a in (answers or {}).items()]
        place = {"source": "faq", "location": "faq"}
        rows = [Document(id=make_content_id(str(n)), position=str(n), **place, **part) for n, part in enumerate(parts)]
        name = make_content_id(*map(repr, rows), model)
        clean, out = tmp_path / name, tmp_path / "artifacts" / "index" / name
        write_rows(clean / "documents" / "part-0.parquet", rows, Document)
        out.mkdir(parents=True)
        metrics = stage.run(Index(model=model), clean=clean, out=out)
        artifacts.commit(out, Record("index", name, {}, {}, "", "", dict(metrics), {}, "", "", ""))
        return out

    return run


def serve(server: SearchServer, folder: Path, owner: str = OURS) -> None:
    """Load an index as `deploy` does, and delete all others of its owner."""
    elasticsearch_store.load_index(server, owner, folder)
    elasticsearch_store.delete_other_indices(server, [owner], folder)


def list_indices(server: SearchServer) -> set[str]:
    """Return the names of all indices with passages."""
    return set(httpx.get(f"{server.url}/llmops-passages-*/_alias").json())


def read_faq() -> tuple[dict[str, str], list[str]]:
    """Return questions with answers, and other wordings of the questions."""
    rows, pairs = (
        list(csv.DictReader(shared(f"data/covid_{name}.csv").open(encoding="utf-8", newline="")))
        for name in ("faq", "paraphrases")
    )
    answers = {row["question"].strip(): row["answer"] for row in rows}
    asked = {pair[name].strip() for pair in pairs if pair["similar"] == "1" for name in ("question_1", "question_2")}
    return answers, sorted(asked - answers.keys())


def test_both_places_find_the_same(server: SearchServer, indexed: Made) -> None:
    answers, asked = read_faq()
    folder = indexed(answers=answers, model="all-MiniLM-L6-v2")
    serve(server, folder)
    found = dict[str, list[float]](bm25=[], dense=[], fused=[])
    with open_index(folder, 1) as files, open_index(folder, 1, server) as there:
        for question in asked:
            for way, shares in found.items():
                ours, theirs = ({hit.passage: hit for hit in one.search(question, 5, way)} for one in (files, there))
                shares.append(len(ours.keys() & theirs.keys()) / len(ours))
                for passage in ours.keys() & theirs.keys() if way != "bm25" else ():
                    assert theirs[passage].likeness == pytest.approx(ours[passage].likeness, abs=1e-5)
        assert (ours := files.search("Что это такое?")) == [] == there.search("Что это такое?"), ours
    assert len(asked) > 200 and min(map(mean, found.values())) >= ALIKE, {way: mean(one) for way, one in found.items()}


@pytest.mark.parametrize(
    ("question", "number"),
    [
        ("", 0),
        ('"', 0),
        ("don't", 1),
        ("don t", 2),
        ("a:b*", 1),
        ("x" * 300, 0),
        ("\ud83d kettles", 1),
        ("打开茶壶", 1),
    ],
)
def test_any_question_can_be_asked(server: SearchServer, indexed: Made, question: str, number: int) -> None:
    folder = indexed("Don't open the kettle.", "T, and a Don.", "请勿打开茶壶。")
    serve(server, folder)
    with open_index(folder) as files, open_index(folder, server=server) as there:
        texts = [[hit.passage.text for hit in one.search(question)] for one in (files, there)]
    assert texts[0] == texts[1] and len(texts[0]) == number


def test_each_artifact_has_an_index_of_its_own_and_nobody_elses_is_deleted(server: SearchServer, indexed: Made) -> None:
    first, second, empty = indexed("An old kettle."), indexed("A new kettle."), indexed()
    longer = server._replace(name=f"{server.name}-old")
    serve(longer, first, "theirs")
    kept = list_indices(server)
    serve(server, first)
    httpx.put(
        f"{server.url}/{elasticsearch_store._make_index_name(server, second)}"
    ).raise_for_status()  # a run was killed
    assert elasticsearch_store.is_up_to_date(server, OURS, first) is False, "another one is left"
    elasticsearch_store.load_index(server, OURS, second)
    for folder, text in ((first, "An old kettle."), (second, "A new kettle.")):
        with open_index(folder, server=server) as index:
            assert [hit.passage.text for hit in index.search("kettle")] == [text]
    for change in (
        lambda: serve(server, first, "theirs"),
        lambda: elasticsearch_store.delete_other_indices(server, ["theirs"], None),
    ):
        with pytest.raises(ConfigError, match=r"another model or home.* grounding\.elasticsearch"):
            change()
    elasticsearch_store.delete_other_indices(server, [OURS, "theirs"], second)
    (ours,) = list_indices(server) - kept
    assert second.name in ours and elasticsearch_store.is_up_to_date(server, OURS, second)
    (found,) = httpx.get(f"{server.url}/{ours}/_search").json()["hits"]["hits"]
    httpx.delete(f"{server.url}/{ours}/_doc/{found['_id']}?refresh=true").raise_for_status()
    assert not elasticsearch_store.is_up_to_date(server, OURS, second)
    serve(server, second)
    assert elasticsearch_store.is_up_to_date(server, OURS, second) and not elasticsearch_store.is_up_to_date(
        server, OURS, None
    )
    serve(server, empty)
    assert list_indices(server) == kept and all(
        elasticsearch_store.is_up_to_date(server, OURS, one) for one in (None, empty)
    )


def test_an_index_that_cannot_be_loaded_leaves_the_old_one(
    server: SearchServer, indexed: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, load = indexed("An old kettle."), indexed("A secret kettle."), elasticsearch_store._load_passages
    serve(server, first)

    def vanishing(client: Any, name: str, artifact: Path) -> None:
        httpx.delete(f"{server.url}/{name}").raise_for_status()
        load(client, name, artifact)

    with monkeypatch.context() as patch, pytest.raises(TransientError, match="lost passages"):
        patch.setattr(
            elasticsearch_store, "_load_passages", vanishing
        )  # a bulk request makes a missing index, without mappings
        elasticsearch_store.load_index(server, OURS, second)
    monkeypatch.setattr(elasticsearch_store, "_MAPPINGS", {"dynamic": "strict"})
    with pytest.raises(ConfigError, match="strict_dynamic_mapping") as error:
        elasticsearch_store.load_index(server, OURS, second)
    assert "secret" not in str(error.value)
    with open_index(first, server=server) as index:
        assert [hit.passage.text for hit in index.search("kettle")] == ["An old kettle."]
        elasticsearch_store.delete_other_indices(server, [OURS], None)
        with pytest.raises(ConfigError, match="404 .*run deploy"):
            index.search("kettle")


def test_deploy_serves_it_there_and_fails_if_it_cannot(server: SearchServer, indexed: Made, tmp_path: Path) -> None:
    (release := tmp_path / "release").mkdir()
    said = {"model": "bot", "version": "v1", "outcome": "rejected"}
    (release / "decision.json").write_text(json.dumps(said))
    url = f"sqlite:///{tmp_path / 'state.db'}"
    paths = {"home": tmp_path, "events": tmp_path / "events", "registry": tmp_path / "registry", "database": url}
    given: dict[str, Any] = {"release": release, **paths, "out": tmp_path, "search_server": server}
    first, second = indexed("An old kettle."), indexed("An old kettle.", "A new lamp.")

    def serve_index(index: Path, **changed: Any) -> None:
        with pytest.raises(DeployError, match="Nothing is served"):  # no champion answers from it yet
            deploy.run(Deploy(), **{**given, **changed}, index=index)

    serve_index(first, search_server=None)
    assert not deploy.is_current(Deploy(), **given, index=first), "it was served by its files"
    (release / "decision.json").write_text(json.dumps({**said, "documents": {"outcome": "rejected"}}))
    serve_index(second)
    model = tmp_path / "registry" / "bot"
    assert elasticsearch_store.is_up_to_date(server, owner_of(model), first), "the new one is held back"
    assert deploy.is_current(Deploy(), **given, index=second)
    (release / "decision.json").write_text(json.dumps(said))
    gone = server._replace(url="http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 does not answer"):
        deploy.run(Deploy(), **{**given, "search_server": gone}, index=second)
    served = find_served_index(model)
    assert served and served.name == first.name
    serve_index(second)
    assert deploy.is_current(Deploy(), **given, index=second)
    assert elasticsearch_store.is_up_to_date(server, owner_of(model), second)


def make_home_with_person(home: Path, server: SearchServer) -> tuple[Config, str]:
    """Return a home in which a log names a person, and the owner of its index."""
    sections = {"grounding": {"elasticsearch": server.name}, "monitoring": {"elasticsearch_url": server.url}}
    config = Config.model_validate({"home": home, **sections})
    (config.home / "logs").mkdir(parents=True)
    (config.home / "logs" / "serving.log").write_text("key of ana.li@example.org\n")
    (model := registry_of(config).folder).mkdir(parents=True)
    assert config.search_server == server
    return config, make_owner(model)


def test_an_erasure_deletes_it(server: SearchServer, indexed: Made, tmp_path: Path) -> None:
    config, owner = make_home_with_person(tmp_path / "home", server)
    serve(server, indexed("Ana Li bought a kettle."), owner)
    forget_person(config, "ana.li@example.org", dry_run=True)
    assert not elasticsearch_store.is_up_to_date(server, owner, None)
    assert forget_person(config, "ana.li@example.org").receipt.remaining == []
    assert elasticsearch_store.is_up_to_date(server, owner, None)


# --- without a real server


def test_an_erasure_ends_and_names_the_index_where_the_server_is_gone(tmp_path: Path) -> None:
    config, _ = make_home_with_person(tmp_path / "home", SearchServer("http://127.0.0.1:9", "llmops-passages-gone"))
    (left,) = forget_person(config, "ana.li@example.org").receipt.remaining
    assert left.startswith("llmops-passages-gone-* in Elasticsearch") and "127.0.0.1:9 does not answer" in left
    assert find_interrupted(config, Subject("ana.li@example.org")) is None, "stages may run"
    with pytest.raises(ValueError, match=r"monitoring\.elasticsearch_url"):
        Config.model_validate({"grounding": {"elasticsearch": "llmops-passages-gone"}})


JSON = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}
KNOWN = {"terms": {"kettl": {"doc_freq": 1}}, "field_statistics": {"doc_count": 3}}
ANSWERS = {
    "_termvectors": {"term_vectors": {"words": KNOWN}},
    "_search": {"hits": {"hits": [{"_id": "a", "_score": 1.0}]}},
    "_mget": {"docs": []},
}


def get_request_kind(path: str) -> str:
    return urlsplit(path).path.rpartition("/")[2]


def test_all_requests_of_a_search_have_one_time_limit(indexed: Made) -> None:
    clock, asked = FakeClock(), list[str]()

    def answer(method: str, path: str, headers: Mapping[str, str], sent: bytes) -> Answer:
        asked.append(get_request_kind(path))
        clock.advance(0.9)
        return 200, dict(JSON), json.dumps(ANSWERS[asked[-1]]).encode()

    with served(answer) as url:
        place = SearchServer(url, "llmops-passages-slow"), indexed("A kettle."), False
        with closing(elasticsearch_store.ElasticsearchStore(*place, clock=clock)) as store:
            for _ in range(2):
                store.start_search()
                clock.advance(9)  # the model of the vectors is loaded, say
                assert store.search_words(["kettle"], 5) == ["a"] and list(store.read(["a"])) == []
                with pytest.raises(TransientError, match="within 2 s"):
                    store.count_passages_with(["kettle"])
    assert asked == [*ANSWERS] * 2


@pytest.mark.parametrize("part", ["_search", "_mget"])
def test_a_part_of_the_passages_is_no_answer(indexed: Made, part: str) -> None:
    failed = {"docs": [{"_id": "a", "error": {"type": "no_shard_available_action_exception"}}]}

    def answer(method: str, path: str, headers: Mapping[str, str], sent: bytes) -> Answer:
        if part == "_search" and "allow_partial_search_results=false" in path:
            return 503, dict(JSON), b'{"error": {"type": "search_phase_execution_exception"}}'
        return 200, dict(JSON), json.dumps((ANSWERS | {"_mget": failed})[get_request_kind(path)]).encode()

    with served(answer) as url:
        server = SearchServer(url, "llmops-passages-partial")
        with open_index(indexed("A kettle."), server=server) as index, pytest.raises(TransientError) as error:
            index.search("kettle")
    assert ("503" in str(error.value)) == (part == "_search")


@pytest.mark.parametrize(("refusals", "error"), [(5, None), (6, TransientError)])
def test_a_busy_server_gets_passages_again_and_later(
    indexed: Made, monkeypatch: pytest.MonkeyPatch, refusals: int, error: type[Exception] | None
) -> None:
    slept, statuses = list[float](), [429] * refusals + [201]

    def answer(method: str, path: str, headers: Mapping[str, str], sent: bytes) -> Answer:
        status = statuses.pop(0)
        item = {"status": status} | ({"error": {"type": "rejected"}} if status == 429 else {})
        return 200, dict(JSON), json.dumps({"errors": status == 429, "items": [{"create": item}]}).encode()

    monkeypatch.setattr("elasticsearch.helpers.actions.time", SimpleNamespace(sleep=slept.append))
    with (
        served(answer) as url,
        closing(make_client(url, {})) as client,
        pytest.raises(error) if error else nullcontext(),
    ):
        elasticsearch_store._load_passages(client, "llmops-passages-busy", indexed("A kettle."))
    assert slept == [2, 4, 8, 16, 32]
