"""Answers from the documents, over HTTP: with their sources, or the refusal without the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from llmops.config import Grounding, Monitoring, Serving
from llmops.data.retrieval import elasticsearch_store
from llmops.data.retrieval.embedder import Embedder
from llmops.data.retrieval.file_store import create_vectors, write_passages
from llmops.data.retrieval.grounding import REFUSAL
from llmops.data.retrieval.minilm import DIMENSIONS, MAX_TOKENS, MODEL_NAME
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.records import Passage, make_content_id
from llmops.release.registry.indexes import find_served_index, serve_index
from serving.engines.base import Chat, Prompt
from serving.models.documents import FAILURE_PAUSE_S, Documents
from serving.models.watcher import Models
from tests.clock import FakeClock
from tests.served import Answer, served
from tests.serving import echo

IBAN = "DE89 3704 0044 0532 0130 00"
DELIVERY = "Delivery takes three to five days."
PAGES = (DELIVERY, f"Send refunds of vouchers to {IBAN} please.")
HOW_LONG, CHESS = "How long does delivery take?", "Who won at chess?"


def make_index(folder: Path, *texts: str, model: str = "") -> Path:
    """Return a finished artifact of `index`, searched by words alone; with a model it has vectors, of zeros."""
    path = folder / "index" / make_content_id(*texts)
    path.mkdir(parents=True)
    place = {"source": "help", "location": "a.html", "position": "1", "title": "Help", "headings": "Shipping"}
    write_passages(path, [Passage(id=f"p{n}", document=f"d{n}", text=text, **place) for n, text in enumerate(texts)])
    if model:
        create_vectors(path, len(texts))[:] = 0
    metrics = {"passages": len(texts), "model": model}
    artifacts.commit(path, Record("index", path.name, {}, {}, "", "", metrics, {}, "", "", ""))
    return path


class Shop:
    """A running app whose engine says the context of a prompt, or else the question, and its registry."""

    def __init__(self, site: Any, client: Any) -> None:
        self.site, self.client, self.asked = site, client, list[Prompt]()
        self.model = site.config.release.registry / site.config.release.name

    def words(self, prompt: Any) -> list[str]:
        self.asked.append(prompt)
        last = prompt.messages[-1] if isinstance(prompt, Chat) else prompt
        return (getattr(last, "context", "") or getattr(last, "content", "") or last.text).split()

    def post(self, way: str, question: str, **more: Any) -> tuple[str, Any]:
        """Return the answer and its sources; `way` is generate or chat, perhaps with ` stream`.

        The sources are None if the response says that it is not from the documents, or says nothing about them.
        """
        path, body = "/generate", dict[str, Any](prompt=question)
        if way.startswith("chat"):
            before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
            body = {"model": self.model.name, "messages": [*before, {"role": "user", "content": question}]}
            path = "/v1/chat/completions"
        body |= {"stream": way.endswith("stream"), **more}
        answer = self.client.post(path, json=body, headers=self.site.headers())
        assert answer.status_code == 200, answer.text
        parts = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        *others, last = parts or [answer.json()]
        assert not any({"sources", "from_documents"} & part.keys() for part in others)
        choices = [part.get("choices", [part])[0] for part in (*others, last)]
        texts = [choice.get("message") or choice.get("delta") or choice for choice in choices]
        pieces = [next(text[name] for name in ("content", "text", "response") if name in text) for text in texts]
        assert ("sources" in last) == ("from_documents" in last) == self.site.config.grounding.enabled
        sources = last.get("sources") if last.get("from_documents") else None
        assert sources is not None or not last.get("sources")
        return "".join(pieces), sources

    def refused(self, **body: Any) -> tuple[int, str]:
        answer = self.site.ask(self.client, **body)
        return answer.status_code, answer.json()["code"]


@pytest.fixture
def shop(new_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    site = new_site(tmp_path / "home", max_prompt_chars=2_000).release()
    site.config = site.config.model_copy(update={"grounding": Grounding(enabled=True)})
    with site.client() as client:
        shop = Shop(site, client)
        monkeypatch.setattr(echo, "_split_words", shop.words)
        serve_index(shop.model, make_index(tmp_path / "first", *PAGES))
        site.ready(client)
        yield shop


@pytest.mark.parametrize("way", ["generate", "generate stream", "chat", "chat stream"])
def test_an_answer_rests_on_passages_which_it_names_and_else_no_model_is_asked(shop: Shop, way: str) -> None:
    answer, sources = shop.post(way, HOW_LONG)
    assert answer == f"Shipping: {DELIVERY}"
    wanted = {"title": "Shipping", "location": "a.html", "position": "1", "snippet": DELIVERY, "score": None}
    assert [source | wanted for source in sources] == sources and sources[0]["id"] == "p0"
    assert shop.post(way, CHESS) == (REFUSAL, []) == shop.post(way, CHESS, ground=True)
    assert len(shop.asked) == 1
    found, refused, _ = shop.site.events()
    assert (found["llmops.retrieval.passages"], found["llmops.retrieval.documents"]) == (["p0"], ["d0"])
    assert (found["llmops.retrieval.outcome"], refused["llmops.retrieval.outcome"]) == ("found", "refused")
    assert refused["llmops.retrieval.passages"] == [] and refused["llmops.model.version"] == "v1"
    assert refused["gen_ai.usage.output_tokens"] == 0


@pytest.mark.parametrize("way", ["generate", "generate stream", "chat", "chat stream"])
def test_a_quote_is_the_answer_without_the_model_and_the_guard_reads_it(shop: Shop, way: str) -> None:
    quotes = Grounding(enabled=True, answer="quote")
    shop.site.config = shop.site.config.model_copy(update={"grounding": quotes})
    with shop.site.client() as client:
        shop.site.ready(client)
        quoting = Shop(shop.site, client)
        answer, sources = quoting.post(way, HOW_LONG)
        assert (answer, sources[0]["id"]) == (DELIVERY, "p0")
        assert quoting.post(way, CHESS) == (REFUSAL, [])
        answer, sources = quoting.post(way, "Where do refunds of vouchers go?")
        assert IBAN not in answer and IBAN not in str(sources)
    assert not shop.asked and shop.site.events()[-1]["gen_ai.usage.output_tokens"] == 0


@pytest.mark.parametrize(("answer", "named"), [("quote", ["p0"]), ("model", ["p0", "p1"])])
def test_only_passages_that_an_answer_rests_on_are_named(shop: Shop, tmp_path: Path, answer: Any, named: Any) -> None:
    """The model reads both passages. The quote has the four sentences of one of them."""
    whole = "Delivery takes three days. Delivery takes longer at Christmas. Delivery takes a van. Delivery takes care."
    serve_index(shop.model, make_index(tmp_path / "both", whole, "Shops close early. A delivery is fun."))
    shop.site.config = shop.site.config.model_copy(update={"grounding": Grounding(enabled=True, answer=answer)})
    with shop.site.client() as client:
        shop.site.ready(client)
        _, sources = Shop(shop.site, client).post("generate", HOW_LONG)
    event = shop.site.events()[-1]
    assert [source["id"] for source in sources] == event["llmops.retrieval.passages"] == named
    assert event["llmops.retrieval.documents"] == [name.replace("p", "d") for name in named]


@pytest.mark.parametrize("way", ["generate", "chat"])
def test_the_guard_takes_a_passage_for_nobodys_words(shop: Shop, way: str) -> None:
    answer, sources = shop.post(way, "Where do refunds of vouchers go?")
    assert answer == "Shipping: Send refunds of vouchers to " and IBAN not in str(sources)
    assert (sources[0]["id"], sources[0]["title"]) == ("p1", "help")
    answer, sources = shop.post(way, f"Do refunds of vouchers go to {IBAN}?")
    assert IBAN in answer and IBAN in str(sources)


@pytest.mark.parametrize("stream", [False, True])
def test_each_turn_without_a_passage_is_refused(shop: Shop, stream: bool) -> None:
    """The rule is the same for a first turn, a later one, and one after a system message."""
    first = [{"role": "user", "content": CHESS}]
    later = [{"role": "user", "content": HOW_LONG}, {"role": "assistant", "content": DELIVERY}, *first]
    for messages in (first, later, [*later[:2], *later], [{"role": "system", "content": "Be kind."}, *first]):
        body = {"model": shop.model.name, "messages": messages, "stream": stream}
        reply = shop.client.post("/v1/chat/completions", json=body, headers=shop.site.headers()).text
        assert REFUSAL in reply and '"from_documents":true' in reply.replace(" ", "")
    assert not shop.asked and {one["llmops.retrieval.outcome"] for one in shop.site.events()} == {"refused"}


def test_other_answers_say_that_no_document_backs_them(shop: Shop) -> None:
    """A text to continue is no question, so it is not looked up."""
    body = {"model": shop.model.name, "prompt": [HOW_LONG, CHESS]}
    reply = shop.client.post("/v1/completions", json=body, headers=shop.site.headers()).json()
    assert (reply["sources"], reply["from_documents"]) == ([], False)
    text = shop.client.post("/v1/completions", json=body | {"stream": True}, headers=shop.site.headers()).text
    assert text.count('"from_documents":false') == text.count('"sources":[]') == 2
    assert {one["llmops.retrieval.outcome"] for one in shop.site.events()} == {"none"}


def test_who_says_so_or_brings_a_context_gets_an_answer_without_documents(shop: Shop) -> None:
    assert shop.post("generate", CHESS, ground=False) == (CHESS, None) == shop.post("chat", CHESS, ground=False)
    assert shop.post("generate", CHESS, context="Ana won.") == ("Ana won.", None)
    assert shop.refused(context="Ana won.", ground=True) == (422, "prompt_refused")
    assert {one.get("llmops.retrieval.outcome") for one in shop.site.events()[:3]} == {"none"}


def test_where_it_is_off_documents_are_never_given_out(shop: Shop) -> None:
    shop.site.config = shop.site.config.model_copy(update={"grounding": Grounding()})
    with shop.site.client() as client:
        shop.site.ready(client)
        off = Shop(shop.site, client)
        assert off.post("generate", HOW_LONG) == (HOW_LONG, None) == off.post("chat", HOW_LONG)
        assert off.refused(ground=True) == (404, "no_documents")
        assert "llmops.retrieval.outcome" not in shop.site.events()[-2]


@pytest.mark.parametrize("wanted", [None, True])
def test_a_prompt_that_seems_to_leave_no_room_gets_a_short_passage(shop: Shop, wanted: bool | None) -> None:
    """The room is an estimate. The engine counts the tokens, and refuses a prompt that does not fit with it."""
    shop.site.config = shop.site.config.model_copy(update={"serving": Serving(requests_per_minute=0)})
    with shop.site.client() as client:
        shop.site.ready(client)
        wide = Shop(shop.site, client)
        answer, sources = wide.post("generate", f"{HOW_LONG} {'x' * 6_971}", ground=wanted)
        assert DELIVERY in answer and sources
    with shop.site.client(lambda version: echo.EchoEngine(max_context=3)) as client:
        shop.site.ready(client)
        assert Shop(shop.site, client).refused(prompt=HOW_LONG, ground=wanted) == (422, "prompt_too_long")


def test_a_quote_needs_no_room_in_the_prompt(shop: Shop) -> None:
    update = {"serving": Serving(requests_per_minute=0), "grounding": Grounding(enabled=True, answer="quote")}
    shop.site.config = shop.site.config.model_copy(update=update)
    with shop.site.client() as client:
        shop.site.ready(client)
        assert Shop(shop.site, client).post("generate", f"{HOW_LONG} {'x' * 6_971}")[0] == DELIVERY


def test_a_system_prompt_takes_as_much_room_as_in_the_evaluation(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Models, "system_prompt", "Be kind. ")
    monkeypatch.setattr("serving.answers.grounded.compute_room", lambda *given: asked.append(given[2]) or 79)
    assert shop.post("generate", HOW_LONG)[1]
    assert asked == [f"Be kind. {HOW_LONG}"]


def test_a_search_takes_neither_too_long_nor_too_many_questions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, free = shop.client.app.state.parts.documents, Event()
    monkeypatch.setattr(documents, "_look_up", lambda *_: free.wait(30) and None)
    monkeypatch.setattr(documents, "_serving", Serving(max_queue=1, timeout_s=0.01))
    assert shop.refused(ground=True) == (504, "timed_out")
    assert shop.post("generate", HOW_LONG) == (HOW_LONG, None), "a search that hangs keeps no answer back"
    monkeypatch.setattr(documents, "_waiting", 1)
    assert shop.refused(ground=True) == (429, "queue_full")
    free.set()


def test_the_app_follows_the_index_and_does_without_one_that_it_cannot_read(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.post("generate", HOW_LONG)[1]
    serve_index(shop.model, other := make_index(tmp_path / "second", "Delivery takes a week."))
    assert shop.post("generate", HOW_LONG)[0] == "Shipping: Delivery takes a week."
    assert [path.name for path in (shop.model / "index").glob("*")] == [other.name]
    serve_index(shop.model, make_index(tmp_path / "third"))
    assert shop.post("generate", HOW_LONG)[1] is None, "an empty index is none"
    assert shop.site.events()[-1]["llmops.retrieval.outcome"] == "no_index"
    assert shop.refused(ground=True) == (404, "no_documents")
    broken = make_index(tmp_path / "fourth", "Delivery never ends.")
    whole = (broken / "index.db").read_bytes()
    (broken / "index.db").write_bytes(b"damaged")
    serve_index(shop.model, broken)
    assert shop.post("generate", HOW_LONG) == (HOW_LONG, None) == shop.post("generate", HOW_LONG)
    assert caplog.text.count("cannot be searched") == 1 and "llmops run deploy" in caplog.text
    assert shop.site.events()[-1]["llmops.retrieval.outcome"] == "down"
    assert shop.refused(ground=True) == (503, "documents_down")
    (broken / "index.db").unlink()
    (broken / "index.db").write_bytes(whole)
    artifacts.commit(broken, replace(artifacts.read_record(broken), finished="later"))
    serve_index(shop.model, broken)
    assert shop.post("generate", HOW_LONG)[0] == "Shipping: Delivery never ends.", "made again under the same name"
    monkeypatch.setattr("llmops.release.registry.indexes.build_partial", lambda path, *_: path.with_name(".lost"))
    with pytest.raises(FileNotFoundError):
        serve_index(shop.model, other)
    assert find_served_index(shop.model) is None, "not two"


def configure_search(url: str) -> dict[str, Any]:
    """Return the sections of a configuration by which an Elasticsearch searches the documents."""
    grounding = Grounding(enabled=True, elasticsearch="llmops-passages-app")
    return {"grounding": grounding, "monitoring": Monitoring(elasticsearch_url=url)}


def test_elasticsearch_answers_by_configuration_and_without_it_the_model_does(
    shop: Shop, event_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.site.config = shop.site.config.model_copy(update=configure_search(event_server))
    assert (server := shop.site.config.search_server) and (folder := find_served_index(shop.model))
    elasticsearch_store.load_index(server, "ours", folder)
    (folder / "index.db").unlink()
    with shop.site.client() as client:
        shop.site.ready(client)
        there = Shop(shop.site, client)
        answer, sources = there.post("generate", HOW_LONG)
        assert (answer, sources[0]["id"]) == (f"Shipping: {DELIVERY}", "p0")
        assert there.post("chat", CHESS) == (REFUSAL, [])
        elasticsearch_store.delete_other_indices(server, ["ours"], None)
        assert there.post("generate", HOW_LONG) == (HOW_LONG, None)
        assert there.refused(ground=True) == (503, "documents_down")
        assert "llmops run deploy" in caplog.text and HOW_LONG not in caplog.text


def test_an_elasticsearch_that_never_answers_is_asked_once_and_nobody_waits_for_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, hangs, asked = FakeClock(), Event(), list[str]()

    def answer(method: str, path: str, sent_headers: Mapping[str, str], sent: bytes) -> Answer:
        asked.append(path)
        hangs.wait(60)
        headers = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}
        return 200, headers, b'{"term_vectors": {}}'

    monkeypatch.setattr(elasticsearch_store, "SEARCH_TIMEOUT_S", 0.05)
    monkeypatch.setattr("serving.app.Documents", partial(Documents, clock=clock))
    with served(answer) as url:
        shop.site.config = shop.site.config.model_copy(update=configure_search(url))
        with shop.site.client() as client:
            shop.site.ready(client)
            there = Shop(shop.site, client)
            for times in (1, 2):
                for _ in range(3):
                    assert there.post("generate", HOW_LONG) == (HOW_LONG, None)
                    assert there.refused(ground=True) == (503, "documents_down")
                assert len(asked) == times
                clock.advance(FAILURE_PAUSE_S)
            monkeypatch.setattr(elasticsearch_store, "SEARCH_TIMEOUT_S", 30.0)
            hangs.set()
            assert there.post("generate", HOW_LONG) == (REFUSAL, []), "it finds nothing, but answers"
    assert caplog.text.count("does not answer") <= 4 and HOW_LONG not in caplog.text


# --- vectors


@pytest.fixture
def vectors(shop: Shop, tmp_path: Path) -> openai.OpenAI:
    """OpenAI's client of the app, which serves an index with vectors."""
    serve_index(shop.model, make_index(tmp_path / "vectors", *PAGES, model=MODEL_NAME))
    return openai.OpenAI(
        base_url="http://testserver/v1", api_key=shop.site.keys["user"], http_client=shop.client, max_retries=0
    )


def test_openais_client_gets_the_vectors_of_the_model_that_searches(
    shop: Shop, vectors: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, pieces = shop.client.app.state.parts.documents, list[int]()
    embed = documents._embed
    monkeypatch.setattr(documents, "_embed", lambda texts: pieces.append(len(texts)) or embed(texts))
    texts = [f"{HOW_LONG} {number}" for number in range(20)]
    with closing(Embedder(1)) as embedder:
        expected, tokens = embedder.embed(texts), embedder.count_tokens(texts)
    coded = vectors.embeddings.create(model=MODEL_NAME, input=texts, dimensions=DIMENSIONS, user="x")  # asks for base64
    plain = vectors.embeddings.create(model=MODEL_NAME, input=texts[0], encoding_format="float")
    assert [one.index for one in coded.data] == list(range(20)) and coded.model == MODEL_NAME
    assert np.abs(np.array([one.embedding for one in coded.data]) - expected).max() < 1e-5
    assert np.abs(np.array(plain.data[0].embedding) - expected[0]).max() < 1e-5
    assert coded.usage.prompt_tokens == coded.usage.total_tokens == tokens == 20 * plain.usage.total_tokens
    assert pieces == [8, 8, 4, 1], "others have their turn in between"
    event, _ = shop.site.events()
    assert (event["gen_ai.operation.name"], event["gen_ai.usage.input_tokens"]) == ("embeddings", tokens)
    assert len(event["llmops.prompt.digest"]) == 20 and event["http.response.status_code"] == 200
    assert "llmops.model.version" not in event and HOW_LONG not in json.dumps(event)
    assert not shop.asked


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": [1, 2]}, 400, "not token ids"), ({"input": [[1, 2]]}, 400, "not token ids"),
        ({"input": []}, 400, "input"), ({"input": ["a", " "]}, 400, "empty"), ({"input": ["a"] * 129}, 400, "128"),
        ({"input": "x" * 2_001}, 400, "at most 2000"), ({"dimensions": 256}, 400, "384"), ({"tools": []}, 400, "tools"),
        ({"model": "support-bot"}, 404, MODEL_NAME),
    ],
)  # fmt: skip
def test_a_request_for_vectors_that_cannot_be_answered_says_why(
    vectors: openai.OpenAI, body: dict[str, Any], status: int, words: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as refusal:
        vectors.post("/embeddings", body={"model": MODEL_NAME, "input": "a", **body}, cast_to=dict[str, Any])
    assert refusal.value.status_code == status


def test_langchain_embeds_texts_and_is_told_how(shop: Shop, vectors: openai.OpenAI) -> None:
    common: Any = {"base_url": "http://testserver/v1", "api_key": vectors.api_key, "http_client": shop.client}
    model = OpenAIEmbeddings(model=MODEL_NAME, max_retries=0, check_embedding_ctx_length=False, **common)
    (first, second), query = model.embed_documents([HOW_LONG, "a"]), model.embed_query(HOW_LONG)
    assert len(second) == DIMENSIONS and np.allclose(first, query, atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        vectors.post("/embeddings", body={"model": MODEL_NAME, "input": [[1, 2]]}, cast_to=dict[str, Any])


def test_vectors_are_off_without_grounding_or_an_index_that_has_them(shop: Shop) -> None:
    def refused(client: Any) -> tuple[int, str]:
        answer = client.post("/v1/embeddings", json={"model": MODEL_NAME, "input": "a"}, headers=shop.site.headers())
        return answer.status_code, answer.json()["error"]["code"]

    assert refused(shop.client) == (404, "no_embeddings")
    serve_index(shop.model, make_index(shop.site.config.home, *PAGES, model=MODEL_NAME))
    shop.site.config = shop.site.config.model_copy(update={"grounding": Grounding()})
    with shop.site.client() as off:
        assert refused(off) == (404, "no_embeddings")


def test_vectors_count_against_the_tokens_of_a_key_by_what_is_read_of_a_text(
    shop: Shop, vectors: openai.OpenAI
) -> None:
    key, _ = shop.site.store.create("user", "x", requests_per_minute=0, tokens_per_minute=2 * MAX_TOKENS + 70)
    client, body = vectors.with_options(api_key=key), {"model": MODEL_NAME, "input": "word " * 300}
    assert [client.embeddings.create(**body).usage.total_tokens for _ in range(2)] == [MAX_TOKENS, MAX_TOKENS]
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(**body)
