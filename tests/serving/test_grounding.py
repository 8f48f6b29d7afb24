"""Answers from the documents, over HTTP: with their sources, or the refusal; the served index is followed."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from llmops import artifacts, cli
from llmops.data.feedback import review, rows
from llmops.data.index.filling import ID, serve
from llmops.errors import ArtifactError, StateError
from llmops.grounding.retriever import REFUSAL, Retriever
from llmops.registry.indexes import folder_of, serve_index
from llmops.registry.registry import registry_of
from llmops.release import rollout
from llmops.state.database import database_of

from ..documents import CHESS, DAY, DELIVERY, SAID, indexed
from ..event_server import EventServer
from .conftest import Site

RETRIEVAL = Path(__file__).parents[2] / "docs" / "retrieval.md"


GUARANTEE = SAID["How long is the guarantee?"]


@pytest.fixture
def site(grounded: Any) -> Any:
    return grounded


@pytest.fixture
def client(site: Any) -> Iterator[Any]:
    with site.client() as client:
        site.ready(client)
        site.until(lambda: client.get("/readyz").json()["index"])
        yield client


def test_an_answer_names_what_it_rests_on(site: Any, client: Any, index: Path) -> None:
    said = site.ask(client, prompt=DELIVERY).json()
    assert said["response"] == DELIVERY
    source = said["sources"][0]
    assert source["snippet"].startswith("Delivery takes three to five days") and source["snippet"].endswith(" …")
    assert len(source["snippet"]) <= 202
    assert (source["location"], source["position"], source["source"]) == ("faq.csv", "row 1", "faq")
    assert source["headings"] == "How long does delivery take?"
    [event] = site.events()
    assert event["llmops.retrieval.outcome"] == "found" and event["llmops.retrieval.index"] == index.name
    assert event["llmops.retrieval.passages"] == [one["id"] for one in said["sources"]]
    assert event["llmops.retrieval.locations"] == ["faq.csv"]
    query = re.search(r'events/store.db "(SELECT .*)"', RETRIEVAL.read_text(encoding="utf-8"))
    assert query
    with closing(sqlite3.connect(site.config.events / "store.db")) as store:
        rows = store.execute(query[1].replace("help/shipping.html", "faq.csv")).fetchall()
    assert rows == [(said["id"],)]
    assert 0.4 < event["llmops.retrieval.likeness"] <= 1 and event["llmops.retrieval.duration"] > 0


def test_where_the_documents_do_not_say_no_model_is_asked(site: Any, client: Any) -> None:
    said = site.ask(client, prompt=CHESS).json()
    assert (said["response"], said["sources"], said["finish_reason"]) == (REFUSAL, [], "stop")
    assert said["usage"] == {"input_tokens": 0, "output_tokens": 0} and said["model_version"] == "v1"
    streamed = site.ask(client, prompt=CHESS, stream=True).text
    assert REFUSAL in streamed and '"sources":[]' in streamed
    for event in site.events():
        assert event["llmops.retrieval.outcome"] == "refused" and event["llmops.retrieval.passages"] == []
        assert event["llmops.retrieval.likeness"] < 0.4


def test_a_stream_ends_with_the_sources(site: Any, client: Any) -> None:
    *_, last = [line for line in site.ask(client, prompt=DELIVERY, stream=True).text.splitlines() if line]
    assert '"sources":[{' in last and '"usage"' in last


def test_who_says_so_gets_an_answer_without_documents(site: Any, client: Any) -> None:
    assert "sources" not in site.ask(client, prompt=CHESS, ground=False).json()
    assert "sources" not in site.ask(client, prompt=CHESS, context="It was held in Reykjavik.").json()
    refused = site.ask(client, prompt=CHESS, context="It was held in Reykjavik.", ground=True)
    assert (refused.status_code, refused.json()["code"]) == (422, "prompt_refused")


def test_without_an_index_only_who_wants_one_is_refused(new_site: Any, tmp_path: Path) -> None:
    site = new_site(tmp_path).release()
    with site.client() as client:
        site.ready(client)
        site.until(lambda: client.get("/readyz").json()["index_detail"].startswith("No index"))
        refused = site.ask(client, ground=True)
        assert (refused.status_code, refused.json()["code"]) == (503, "no_documents")
        assert site.ask(client).json()["response"] == "one two three"


def test_a_damaged_index_is_told_of_and_the_next_one_is_opened(site: Any, index: Path) -> None:
    folder = folder_of(registry_of(site.config)) / index.name
    (folder / "vectors.npy").unlink()
    with site.client() as client:
        site.ready(client)
        site.until(lambda: "ArtifactError" in client.get("/readyz").json()["index_detail"])
        assert site.ask(client, prompt=DELIVERY).json()["code"] == "no_documents"
        assert site.ask(client, prompt=DELIVERY, ground=False).status_code == 200
        serve_index(registry_of(site.config), index, "2026-02-01", by="a test")
        site.until(lambda: site.ask(client, prompt=DELIVERY).status_code == 200)
        assert client.get("/readyz").json()["index_detail"] == ""


def test_what_cannot_be_searched_is_told_of_until_it_can(
    site: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "look", lambda *_: (_ for _ in ()).throw(ArtifactError("a damaged page")))
        assert site.ask(client, prompt=DELIVERY).json()["code"] == "no_documents"
        assert "could not be searched" in client.get("/readyz").json()["index_detail"]
    assert site.ask(client, prompt=DELIVERY).json()["sources"]
    assert client.get("/readyz").json()["index_detail"] == ""


def test_a_database_that_cannot_be_read_is_not_told_as_no_index(
    new_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StateError("The database cannot be reached.")

    monkeypatch.setattr("serving.models.documents.served_index", away)
    site = new_site(tmp_path).release()
    with site.client() as client:
        site.until(lambda: "StateError" in client.get("/readyz").json()["index_detail"])


def test_that_the_documents_do_not_say_tells_nothing_of_the_version(site: Any, client: Any) -> None:
    assert site.ask(client, prompt=CHESS).json()["response"] == REFUSAL
    site.until(lambda: site.events("llmops.text"))
    [event] = site.events("llmops.text")
    assert not [name for name in event if name.startswith("llmops.answer.")], "neither its refusals nor its features"
    assert [name for name in event if name.startswith("llmops.prompt.")]


def test_a_document_that_is_gone_is_cited_no_more_and_nobody_fails_meanwhile(
    site: Any, client: Any, tmp_path: Path
) -> None:
    assert site.ask(client, prompt=DELIVERY).json()["sources"]
    kept = {question: answer for question, answer in SAID.items() if "delivery" not in question}
    other = indexed(tmp_path / "other", kept)
    serve_index(registry_of(site.config), other, "2026-02-01", by="a test")
    while True:
        said = site.ask(client, prompt=DELIVERY)
        assert said.status_code == 200
        if client.get("/readyz").json()["index"] == other.name:
            break
    assert "Delivery" not in site.ask(client, prompt=DELIVERY).text
    shutil.rmtree(other)  # it is in the registry
    assert site.ask(client, prompt="What guarantee comes with a kettle?").json()["sources"]


def test_who_is_forgotten_is_found_no_more_by_the_app_that_runs(grounded: Any) -> None:
    mail, question = "ana.lind@example.org", "Where is the blue parcel with the violin?"
    said = {**SAID, "Where is the blue parcel?": f"The blue parcel with a violin is on its way to {mail}."}
    index = indexed(grounded.config.home, said)
    for version in registry_of(grounded.config).versions():
        (version.path / "lineage.json").write_text('{"stages": [], "dataset": {"artifact": "annotate/a"}}')
    serve_index(registry_of(grounded.config), index, "2026-02-01", by="a test")
    with grounded.client() as client:
        grounded.ready(client)
        grounded.until(lambda: client.get("/readyz").json()["index"] == index.name)
        found = grounded.ask(client, prompt=question)
        assert "violin" in found.json()["sources"][0]["snippet"] and mail not in found.text
        assert cli.main(["data", "forget", mail, "--set", f"home={grounded.config.home}"]) == 0
        grounded.until(lambda: "on its way" not in grounded.ask(client, prompt=question).text)
        assert grounded.ask(client, prompt=DELIVERY).json()["sources"]
        assert client.get("/readyz").json()["index"] == index.name
    assert artifacts.verify(folder_of(registry_of(grounded.config)) / index.name) == []


def test_kept_texts_have_the_callers_words_and_no_passages(new_site: Any, index: Path, tmp_path: Path) -> None:
    """What an erasure takes out of the index would stay in them, and no longer name the person."""
    site = new_site(tmp_path, {"grounding": {"enabled": True}, "monitoring": {"keep_text": True}}).release()
    serve_index(registry_of(site.config), index, DAY, by="a test")
    with site.client() as client:
        site.ready(client)
        site.until(lambda: client.get("/readyz").json()["index"])
        assert site.ask(client, prompt=DELIVERY).json()["sources"]
    kept = b"".join(path.read_bytes() for path in site.config.events.rglob("*") if path.is_file())
    assert DELIVERY.encode() in kept and b"three to five" not in kept


def test_an_answer_from_the_documents_is_none_to_train_and_a_correction_is(
    new_site: Any, index: Path, tmp_path: Path
) -> None:
    said = {"name": "said", "kind": "feedback", "licence": "CC0-1.0", "owner": "support"}
    settings = {"grounding": {"enabled": True}, "monitoring": {"keep_text": True}, "collect": {"sources": [said]}}
    site = new_site(tmp_path, settings).release()
    serve_index(registry_of(site.config), index, DAY, by="a test")
    with site.client() as client:
        site.ready(client)
        site.until(lambda: client.get("/readyz").json()["index"])
        for question in (CHESS, DELIVERY):
            for role in ("user", "developer"):
                found = site.ask(client, role, prompt=question).json()
                liked = {"id": found["id"], "rating": "up"}
                assert client.post("/feedback", json=liked, headers=site.headers(role)).status_code == 201
        by_heart = site.ask(client, prompt="Who are you?", ground=False).json()
        liked = {"id": by_heart["id"], "rating": "up"}
        assert client.post("/feedback", json=liked, headers=site.headers()).status_code == 201
        mended = {"id": found["id"], "question": DELIVERY, "answer": found["response"], "correction": "In two days."}
        assert client.post("/feedback", json=mended, headers=site.headers("developer")).status_code == 201
        site.until(lambda: len(site.events("llmops.text")) == 5)
    review.refresh(site.config)
    with database_of(site.config).read() as connection:
        assert {(row.kind, row.question) for row in rows.kept(connection)} == {
            ("correction", DELIVERY), ("answer", "Who are you?")
        }  # fmt: skip


def test_who_leaves_before_the_end_has_used_the_pages_all_the_same(site: Any) -> None:
    def slow(version: Any) -> Any:
        made = site.engine(version)
        step = made._step
        made._step = lambda rows: (time.sleep(0.2), step(rows))
        return made

    asked = {"json": {"prompt": DELIVERY, "stream": True}, "headers": site.headers()}
    with site.live(slow) as url, httpx.Client() as http:
        site.until(lambda: http.get(f"{url}/readyz").json()["index"])
        with http.stream("POST", f"{url}/generate", **asked) as answer:
            next(answer.iter_lines())
        site.until(site.events)
    [event] = site.events()
    assert event["http.response.status_code"] == 499 and event["llmops.retrieval.outcome"] == "found"
    assert event["llmops.retrieval.locations"] == ["faq.csv"] and event["llmops.retrieval.passages"]


def test_what_is_given_to_the_model_fits(new_site: Any, index: Path, tmp_path: Path) -> None:
    site = new_site(tmp_path, {"grounding": {"likeness": 0, "passages": 3}}, max_prompt_chars=120).release()
    serve_index(registry_of(site.config), index, DAY, by="a test")
    given: list[Any] = []

    def engine(version: Any) -> Any:
        made = site.engine(version)
        begin = made._begin
        made._begin = lambda job: (given.append(job.request.prompt), begin(job))[1]
        return made

    with site.client(engine) as client:
        site.ready(client)
        site.until(lambda: client.get("/readyz").json()["index"])
        said = site.ask(client, prompt=DELIVERY, ground=True).json()
    assert len(said["sources"]) == len(given[-1].passages) >= 1
    assert sum(map(len, given[-1].passages)) <= 120


def chat(site: Any, client: Any, *said: str, **body: Any) -> Any:
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    body = {"model": site.config.release.name, "messages": turns, **body}
    return client.post("/v1/chat/completions", json=body, headers=site.headers())


def test_the_last_question_of_a_chat_is_looked_up(site: Any, client: Any) -> None:
    said = chat(site, client, CHESS, "I do not know.", DELIVERY).json()
    assert said["choices"][0]["message"]["content"] == DELIVERY and said["sources"][0]["position"] == "row 1"
    said = chat(site, client, DELIVERY, "Three to five days.", CHESS, n=2).json()
    assert [choice["message"]["content"] for choice in said["choices"]] == [REFUSAL] * 2 and said["sources"] == []
    assert "sources" not in chat(site, client, DELIVERY, ground=False).json()
    assert "sources" not in chat(site, client, DELIVERY, "Three to").json(), "nothing is asked"
    assert chat(site, client, DELIVERY, "Three to", ground=True).json()["error"]["code"] == "prompt_refused"
    assert chat(site, client, DELIVERY, ground=True, response_format={"type": "json_object"}).status_code == 400
    assert chat(site, client, DELIVERY, response_format={"type": "text"}).json()["sources"]
    tools = [{"type": "function", "function": {"name": "track"}}]
    assert "leave tools" in chat(site, client, DELIVERY, ground=True, tools=tools).json()["error"]["message"]


@pytest.mark.parametrize("options", [None, {"include_usage": True}])
def test_openais_client_reads_the_sources_of_a_stream(site: Any, options: Any) -> None:
    with site.live() as url, httpx.Client() as http:
        site.until(lambda: http.get(f"{url}/readyz").json()["index"])
        openai = OpenAI(base_url=f"{url}/v1", api_key=site.keys["user"], max_retries=0)
        for question, answer in ((DELIVERY, DELIVERY), (CHESS, REFUSAL)):
            messages: Any = [{"role": "user", "content": question}]
            asked: Any = {"model": site.config.release.name, "messages": messages}
            more = {"stream_options": options} if options else {}
            chunks = list(openai.chat.completions.create(**asked, **more, stream=True))
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer
            whole = openai.chat.completions.create(**asked)
            assert chunks[-1].model_extra["sources"] == whole.model_extra["sources"]
            assert bool(whole.model_extra["sources"]) == (question == DELIVERY)
            assert all("sources" not in chunk.model_extra for chunk in chunks[:-2])


@pytest.fixture
def quoting(site: Any) -> Any:
    """Its champion answers by quoting; v2 by its model."""
    path = site.config.release.registry / site.config.release.name / "versions" / "v1" / "version.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "answers": "quote"}))
    return site


def test_a_version_that_quotes_answers_in_a_passages_own_words(quoting: Any, client: Any) -> None:
    question = "For how many years is the guarantee?"
    said = quoting.ask(client, prompt=question).json()
    assert said["response"] == GUARANTEE and said["finish_reason"] == "stop"
    assert said["usage"] == {"input_tokens": 0, "output_tokens": 0}
    [source] = said["sources"]
    assert (source["position"], source["location"]) == ("row 2", "faq.csv")
    streamed = quoting.ask(client, prompt=question, stream=True).text
    assert GUARANTEE in streamed and '"sources":[{' in streamed
    for event in quoting.events():
        assert event["llmops.retrieval.outcome"] == "quoted" and event["llmops.retrieval.passages"] == [source["id"]]
    assert quoting.ask(client, prompt=CHESS).json()["response"] == REFUSAL
    assert quoting.ask(client, prompt=question, ground=False).json()["response"] == question


def test_a_quote_is_given_in_openais_form(quoting: Any) -> None:
    with quoting.live() as url, httpx.Client() as http:
        quoting.until(lambda: http.get(f"{url}/readyz").json()["index"])
        openai = OpenAI(base_url=f"{url}/v1", api_key=quoting.keys["user"])
        asked: Any = {
            "model": "support-bot",
            "messages": [{"role": "user", "content": "Is there a guarantee?"}],
            "n": 2,
        }
        said = openai.chat.completions.create(**asked)
        assert [one.message.content for one in said.choices] == [GUARANTEE] * 2
        assert "row 2" in said.model_dump_json()


def test_each_version_answers_in_its_own_way_and_quotes_count_in_a_trial(quoting: Any, client: Any) -> None:
    question = "For how many years is the guarantee?"
    registry = registry_of(quoting.config)
    rollout.start(registry, quoting.config.events, "v2", 0.5, by="a test", why="try")
    quoting.until(lambda: "v2" in quoting.engines)

    def asked(side: str) -> Any:
        headers = {**quoting.headers(), "X-Llmops-Side": side}
        return client.post("/generate", json={"prompt": question}, headers=headers)

    quoting.until(lambda: asked("canary").status_code == 200)
    said = {side: asked(side).json() for side in ("champion", "canary")}
    assert (said["champion"]["response"], said["champion"]["model_version"]) == (GUARANTEE, "v1")
    assert (said["canary"]["response"], said["canary"]["model_version"]) == (question, "v2")


def test_a_quote_is_not_kept_with_the_texts(new_site: Any, index: Path, tmp_path: Path) -> None:
    site = new_site(tmp_path, {"grounding": {"enabled": True}, "monitoring": {"keep_text": True}}).release()
    path = site.config.release.registry / site.config.release.name / "versions" / "v1" / "version.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "answers": "quote"}))
    serve_index(registry_of(site.config), index, DAY, by="a test")
    with site.client() as client:
        site.ready(client)
        site.until(lambda: client.get("/readyz").json()["index"])
        assert "guarantee of two years" in site.ask(client, prompt="Is there a guarantee?").text
    kept = b"".join(path.read_bytes() for path in site.config.events.rglob("*") if path.is_file())
    assert b"Is there a guarantee?" in kept and b"guarantee of two years" not in kept


def test_an_index_on_a_server_answers_is_followed_and_told_of_while_the_server_is_away(
    index: Path, tmp_path: Path, elasticsearch: EventServer
) -> None:
    sections = {"index": {"backend": "elasticsearch"}, "monitoring": {"elasticsearch_url": elasticsearch.url}}
    site = Site(tmp_path / "site", {"grounding": {"enabled": True}, **sections}, max_prompt_chars=400).release()
    server, registry = site.config.search_server, registry_of(site.config)
    serve(registry, index, DAY, server, by="a test")
    with site.client() as client:
        site.ready(client)
        site.until(lambda: site.ask(client, prompt=DELIVERY).status_code == 200)
        assert site.ask(client, prompt=DELIVERY).json()["sources"][0]["position"] == "row 1"
        assert site.ask(client, prompt=CHESS).json()["response"] == REFUSAL
        passages = f"{elasticsearch.url}/llmops-passages-*{(folder_of(registry) / ID).read_text()}*"
        assert httpx.put(f"{passages}/_settings", json={"index.blocks.read": True}).is_success, "as while it is filled"
        refused = site.ask(client, prompt=DELIVERY)
        assert (refused.status_code, refused.json()["code"]) == (503, "no_documents")
        assert httpx.put(f"{passages}/_settings", json={"index.blocks.read": None}).is_success
        assert site.ask(client, prompt=DELIVERY).json()["sources"]
        elasticsearch.kill()
        try:
            refused = site.ask(client, prompt=DELIVERY)
            assert (refused.status_code, refused.json()["code"]) == (503, "no_documents")
            assert "could not be searched" in client.get("/readyz").json()["index_detail"]
            assert site.ask(client, prompt=DELIVERY, ground=False).status_code == 200
        finally:
            elasticsearch.start()
        assert site.ask(client, prompt=DELIVERY).json()["sources"]
        other = indexed(tmp_path / "other", {q: a for q, a in SAID.items() if "delivery" not in q})
        serve(registry, other, "2026-02-01", server, by="a test")
        site.until(lambda: client.get("/readyz").json()["index"] == other.name)
        assert site.ask(client, prompt=DELIVERY).json()["response"] == REFUSAL
