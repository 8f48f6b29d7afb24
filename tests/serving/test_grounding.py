"""Answers from the documents, over HTTP: with their sources, or the refusal without the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from llmops import artifacts
from llmops.artifacts import Record
from llmops.config import Grounding, Serving
from llmops.data.retrieval.files import write_passages
from llmops.data.retrieval.grounds import REFUSAL
from llmops.records import Passage, content_id
from llmops.registry.indexes import serve_index, served_index
from serving.engines import echo
from serving.engines.base import Chat, Prompt

IBAN = "DE89 3704 0044 0532 0130 00"
DELIVERY = "Delivery takes three to five days."
PAGES = (DELIVERY, f"Send refunds of vouchers to {IBAN} please.")
HOW_LONG, CHESS = "How long does delivery take?", "Who won at chess?"


def indexed(folder: Path, *texts: str) -> Path:
    """Return a finished artifact of `index`, searched by words alone."""
    path = folder / "index" / content_id(*texts)
    path.mkdir(parents=True)
    place = {"source": "help", "location": "a.html", "position": "1", "title": "Help", "headings": "Shipping"}
    write_passages(path, [Passage(id=f"p{n}", document=f"d{n}", text=text, **place) for n, text in enumerate(texts)])
    metrics = {"passages": len(texts), "model": ""}
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
        return (last.context or getattr(last, "content", "") or last.text).split()

    def post(self, way: str, question: str, *, earlier: bool = True, **more: Any) -> tuple[str, Any]:
        """Return the answer and its sources; `way` is generate or chat, perhaps with ` stream`."""
        path, body = "/generate", dict[str, Any](prompt=question)
        if way.startswith("chat"):
            before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}] if earlier else []
            body = {"model": self.model.name, "messages": [*before, {"role": "user", "content": question}]}
            path = "/v1/chat/completions"
        body |= {"stream": way.endswith("stream"), **more}
        answer = self.client.post(path, json=body, headers=self.site.headers())
        assert answer.status_code == 200, answer.text
        parts = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        *others, last = parts or [answer.json()]
        assert not any("sources" in part for part in others)
        choices = [part.get("choices", [part])[0] for part in (*others, last)]
        texts = [choice.get("message") or choice.get("delta") or choice for choice in choices]
        said = [next(text[name] for name in ("content", "text", "response") if name in text) for text in texts]
        return "".join(said), last.get("sources")

    def refused(self, **body: Any) -> tuple[int, str]:
        answer = self.site.ask(self.client, **body)
        return answer.status_code, answer.json()["code"]


@pytest.fixture
def shop(new_site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    site = new_site(tmp_path / "home").release()
    site.config = site.config.model_copy(update={"grounding": Grounding(enabled=True)})
    with site.client() as client:
        shop = Shop(site, client)
        monkeypatch.setattr(echo, "_split_words", shop.words)
        serve_index(shop.model, indexed(tmp_path / "first", *PAGES))
        site.ready(client)
        yield shop


@pytest.mark.parametrize("way", ["generate", "generate stream", "chat", "chat stream"])
def test_an_answer_rests_on_passages_which_it_names_and_else_no_model_is_asked(shop: Shop, way: str) -> None:
    answer, sources = shop.post(way, HOW_LONG)
    assert answer == f"Shipping: {DELIVERY}"
    wanted = {"title": "Shipping", "location": "a.html", "position": "1", "snippet": DELIVERY, "score": None}
    assert [source | wanted for source in sources] == sources and sources[0]["id"] == "p0"
    assert shop.post(way, CHESS, earlier=False) == (REFUSAL, []) == shop.post(way, CHESS, ground=True)
    assert len(shop.asked) == 1
    found, refused, _ = shop.site.events()
    assert (found["llmops.retrieval.passages"], found["llmops.retrieval.documents"]) == (["p0"], ["d0"])
    assert (found["llmops.retrieval.outcome"], refused["llmops.retrieval.outcome"]) == ("found", "refused")
    assert refused["llmops.retrieval.passages"] == [] and refused["llmops.model.version"] == "v1"
    assert refused["gen_ai.usage.output_tokens"] == 0


@pytest.mark.parametrize("way", ["generate", "chat"])
def test_the_guard_takes_a_passage_for_nobodys_words(shop: Shop, way: str) -> None:
    answer, sources = shop.post(way, "Where do refunds of vouchers go?")
    assert answer == "Shipping: Send refunds of vouchers to " and IBAN not in str(sources)
    assert (sources[0]["id"], sources[0]["title"]) == ("p1", "help")
    answer, sources = shop.post(way, f"Do refunds of vouchers go to {IBAN}?")
    assert IBAN in answer and IBAN in str(sources)


def test_who_says_so_brings_a_context_or_goes_on_gets_an_answer_without_documents(shop: Shop) -> None:
    assert shop.post("generate", CHESS, ground=False) == (CHESS, None) == shop.post("chat", CHESS, ground=False)
    assert shop.post("generate", CHESS, context="Ana won.") == ("Ana won.", None)
    assert shop.refused(context="Ana won.", ground=True) == (422, "prompt_refused")
    assert shop.post("chat", CHESS) == (CHESS, None)
    assert shop.site.events()[-1]["llmops.retrieval.outcome"] == "none"


def test_where_it_is_off_documents_are_never_given_out(shop: Shop) -> None:
    shop.site.config = shop.site.config.model_copy(update={"grounding": Grounding()})
    with shop.site.client() as client:
        shop.site.ready(client)
        off = Shop(shop.site, client)
        assert off.post("generate", HOW_LONG) == (HOW_LONG, None) == off.post("chat", HOW_LONG)
        assert off.refused(ground=True) == (404, "no_documents")
        assert "llmops.retrieval.outcome" not in shop.site.events()[-2]


def test_without_room_for_passages_there_are_none(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.answers.grounded.room_of", lambda *_: 79)
    assert shop.post("generate", HOW_LONG) == (HOW_LONG, None)
    assert shop.refused(ground=True) == (422, "prompt_too_long")


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
    serve_index(shop.model, other := indexed(tmp_path / "second", "Delivery takes a week."))
    assert shop.post("generate", HOW_LONG)[0] == "Shipping: Delivery takes a week."
    assert [path.name for path in (shop.model / "index").glob("*")] == [other.name]
    serve_index(shop.model, indexed(tmp_path / "third"))
    assert shop.post("generate", HOW_LONG)[1] is None, "an empty index is none"
    assert shop.refused(ground=True) == (404, "no_documents")
    broken = indexed(tmp_path / "fourth", "Delivery never ends.")
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
    monkeypatch.setattr("llmops.registry.indexes.build_partial", lambda path, *_: path.with_name(".lost"))
    with pytest.raises(FileNotFoundError):
        serve_index(shop.model, other)
    assert served_index(shop.model) is None, "not two"
