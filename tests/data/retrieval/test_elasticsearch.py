"""The served index in a real Elasticsearch: the same passages as by its files, swapped and deleted at once."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import pytest

from llmops.config import Config, Deploy, Index, SearchServer
from llmops.data.index import stage
from llmops.data.retrieval import elasticsearch
from llmops.data.retrieval.search import open_index
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import ConfigError, TransientError
from llmops.frame.records import Document, content_id, write_rows
from llmops.privacy.erasure.forget import forget
from llmops.release.deploy import stage as deploy
from llmops.release.registry.indexes import find_served_index
from llmops.release.registry.registry import registry_of
from tests.conftest import shared

ALIKE = 0.95  #: least share of the five best passages that are the same, on average; docs/grounding.md states it
NUMBERS = itertools.count()
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
        rows = [Document(id=content_id(str(n)), position=str(n), **place, **part) for n, part in enumerate(parts)]
        name = content_id(*map(repr, rows), model)
        clean, out = tmp_path / name, tmp_path / "artifacts" / "index" / name
        write_rows(clean / "documents" / "part-0.parquet", rows, Document)
        out.mkdir(parents=True)
        metrics = stage.run(Index(model=model), clean=clean, out=out)
        artifacts.commit(out, Record("index", name, {}, {}, "", "", dict(metrics), {}, "", "", ""))
        return out

    return run


def indices(server: SearchServer) -> dict[str, list[str]]:
    """Return all indices with passages, and their aliases."""
    found = httpx.get(f"{server.url}/llmops-passages-*/_alias").json()
    return {name: list(said["aliases"]) for name, said in found.items()}


def faq() -> tuple[dict[str, str], list[str]]:
    """Return questions with answers, and other wordings of the questions."""
    rows, pairs = (
        list(csv.DictReader(shared(f"data/covid_{name}.csv").open(encoding="utf-8", newline="")))
        for name in ("faq", "paraphrases")
    )
    answers = {row["question"].strip(): row["answer"] for row in rows}
    asked = {pair[name].strip() for pair in pairs if pair["similar"] == "1" for name in ("question_1", "question_2")}
    return answers, sorted(asked - answers.keys())


def test_both_places_find_the_same(server: SearchServer, indexed: Made) -> None:
    answers, asked = faq()
    folder = indexed(answers=answers, model="all-MiniLM-L6-v2")
    elasticsearch.serve(server, folder)
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
    elasticsearch.serve(server, folder)
    with open_index(folder) as files, open_index(folder, server=server) as there:
        texts = [[hit.passage.text for hit in one.search(question)] for one in (files, there)]
    assert texts[0] == texts[1] and len(texts[0]) == number


def test_the_alias_changes_at_once_and_what_it_named_is_gone(server: SearchServer, indexed: Made) -> None:
    first, second, empty = indexed("An old kettle."), indexed("A new kettle."), indexed()
    other = server._replace(alias=f"{server.alias}-2")
    elasticsearch.serve(other, first)
    kept = indices(server)
    elasticsearch.serve(server, first)
    with open_index(first, server=server) as index:
        assert [hit.passage.text for hit in index.search("kettle")] == ["An old kettle."]
        (before,) = indices(server).keys() - kept.keys()
        httpx.put(f"{server.url}/{elasticsearch._name(server, second)}").raise_for_status()  # a run was killed
        assert not elasticsearch.is_served(server, first)
        elasticsearch.serve(server, second)
        assert [hit.passage.text for hit in index.search("kettle")] == ["A new kettle."], "and whoever reads goes on"
    now = {name: aliases for name, aliases in indices(server).items() if name not in kept}
    assert list(now.values()) == [[server.alias]] and before not in now and second.name in next(iter(now))
    assert elasticsearch.is_served(server, second) and not elasticsearch.is_served(server, None)
    elasticsearch.serve(server, empty)
    assert indices(server) == kept and elasticsearch.is_served(server, None) and elasticsearch.is_served(server, empty)
    elasticsearch.serve(other, None)


def test_an_index_that_cannot_be_loaded_leaves_the_old_one(
    server: SearchServer, indexed: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = indexed("An old kettle."), indexed("A secret kettle.")
    elasticsearch.serve(server, first)
    monkeypatch.setattr(elasticsearch, "_MAPPINGS", {"dynamic": "strict"})
    with pytest.raises(ConfigError, match="strict_dynamic_mapping") as error:
        elasticsearch.serve(server, second)
    assert "secret" not in str(error.value)
    with open_index(first, server=server) as index:
        assert [hit.passage.text for hit in index.search("kettle")] == ["An old kettle."]
    elasticsearch.serve(server, None)
    with open_index(first, server=server) as index, pytest.raises(ConfigError, match="404 .*run deploy"):
        index.search("kettle")


def test_deploy_serves_it_there_and_fails_if_it_cannot(server: SearchServer, indexed: Made, tmp_path: Path) -> None:
    (release := tmp_path / "release").mkdir()
    said = {"model": "bot", "version": "v1", "outcome": "rejected"}
    (release / "decision.json").write_text(json.dumps(said))
    url = f"sqlite:///{tmp_path / 'state.db'}"
    paths = {"home": tmp_path, "events": tmp_path / "events", "registry": tmp_path / "registry", "database": url}
    given: dict[str, Any] = {"release": release, **paths, "out": tmp_path, "search_server": server}
    first, second = indexed("An old kettle."), indexed("An old kettle.", "A new lamp.")
    deploy.run(Deploy(), **{**given, "search_server": None}, index=first)
    assert not deploy.is_current(Deploy(), **given, index=first), "it was served by its files"
    (release / "decision.json").write_text(json.dumps({**said, "documents": {"outcome": "rejected"}}))
    deploy.run(Deploy(), **given, index=second)
    assert elasticsearch.is_served(server, first), "the new one is held back"
    assert deploy.is_current(Deploy(), **given, index=second)
    (release / "decision.json").write_text(json.dumps(said))
    gone = server._replace(url="http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 does not answer"):
        deploy.run(Deploy(), **{**given, "search_server": gone}, index=second)
    served = find_served_index(tmp_path / "registry" / "bot")
    assert served and served.name == first.name
    deploy.run(Deploy(), **given, index=second)
    assert elasticsearch.is_served(server, second) and deploy.is_current(Deploy(), **given, index=second)


def test_an_erasure_deletes_it(server: SearchServer, indexed: Made, tmp_path: Path) -> None:
    elasticsearch.serve(server, indexed("Ana Li bought a kettle."))
    sections = {"grounding": {"elasticsearch": server.alias}, "monitoring": {"elasticsearch_url": server.url}}
    config = Config.model_validate({"home": tmp_path / "home", **sections})
    (config.home / "logs").mkdir(parents=True)
    (config.home / "logs" / "serving.log").write_text("key of ana.li@example.org\n")
    registry_of(config).folder.mkdir(parents=True)
    assert config.search_server == server
    forget(config, "ana.li@example.org", dry_run=True)
    assert not elasticsearch.is_served(server, None)
    forget(config, "ana.li@example.org")
    assert elasticsearch.is_served(server, None)
    with pytest.raises(ValueError, match=r"monitoring\.elasticsearch_url"):
        Config.model_validate({**sections, "monitoring": {}})
