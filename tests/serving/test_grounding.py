"""Answers from the documents, over HTTP: with their sources, or the refusal without the model."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from serving.engines.base import Chat, Prompt, Question
from serving.engines.echo import EchoEngine, EchoRow
from serving.engines.stepping import Job

IBAN = "DE89 3704 0044 0532 0130 00"
DELIVERY = "Delivery takes three to five days."
PAGES = (DELIVERY, f"Send refunds of vouchers to {IBAN} please.")
CHESS = "Who won at chess?"


class Reading(EchoEngine):
    """Answers with the context of its prompt; without one, with the question."""

    asked: list[Prompt]

    def _begin(self, job: Job) -> EchoRow:
        row, prompt = super()._begin(job), job.request.prompt
        self.asked = [*getattr(self, "asked", []), prompt]
        context = prompt.context if isinstance(prompt, Question) else ""
        context = prompt.messages[-1].context if isinstance(prompt, Chat) else context
        row.words = context.split() or row.words
        return row


def indexed(folder: Path, *texts: str) -> Path:
    """Return a finished artifact of `index`, searched by words alone."""
    path = folder / "index" / content_id(*texts)
    path.mkdir(parents=True)
    place = {"source": "help", "location": "a.html", "position": "1", "title": "Help", "headings": "Shipping"}
    rows = [Passage(id=f"p{n}", document=f"d{n}", text=text, **place) for n, text in enumerate(texts)]
    write_passages(path, rows)
    metrics = {"passages": len(texts), "model": ""}
    artifacts.commit(
        path, Record("index", path.name, {}, {}, "", "c", metrics, {}, git_commit="", started="", finished="")
    )
    return path


class Shop:
    """A running app whose engine reads its context, and its registry."""

    def __init__(self, site: Any, client: Any) -> None:
        self.site, self.client = site, client
        self.model = site.config.release.registry / site.config.release.name

    def post(self, way: str, question: str, *, earlier: bool = True, **more: Any) -> tuple[str, Any]:
        """Return the answer and its sources; `way` is generate or chat, perhaps with ` stream`."""
        kind, _, stream = way.partition(" ")
        body: dict[str, Any] = {"prompt": question}
        if kind == "chat":
            said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}] if earlier else []
            body = {"model": self.site.config.release.name, "messages": [*said, {"role": "user", "content": question}]}
        path = "/v1/chat/completions" if kind == "chat" else "/generate"
        answer = self.client.post(path, json=body | more | {"stream": bool(stream)}, headers=self.site.headers())
        assert answer.status_code == 200, answer.text
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        parts = [json.loads(line) for line in lines] if stream else [answer.json()]
        texts = [
            part["response" if not stream else "text"] if kind == "generate"
            else part["choices"][0]["delta" if stream else "message"]["content"]
            for part in parts
        ]  # fmt: skip
        assert not any("sources" in part for part in parts[:-1])
        return "".join(texts), parts[-1].get("sources")


@pytest.fixture
def shop(new_site: Any, tmp_path: Path) -> Any:
    site = new_site(tmp_path / "home").release()
    site.config = site.config.model_copy(update={"grounding": Grounding(enabled=True)})

    def engine(version: Any) -> EchoEngine:
        site.engines[version.name] = Reading(64, 16)
        return site.engines[version.name]

    serve_index(site.config.release.registry / site.config.release.name, indexed(tmp_path / "first", *PAGES))
    with site.client(engine) as client:
        site.ready(client)
        yield Shop(site, client)


@pytest.mark.parametrize("way", ["generate", "generate stream", "chat", "chat stream"])
def test_an_answer_rests_on_passages_which_it_names_and_else_no_model_is_asked(shop: Shop, way: str) -> None:
    answer, sources = shop.post(way, "How long does delivery take?")
    assert answer == f"Shipping: {DELIVERY}"
    wanted = {"title": "Shipping", "location": "a.html", "position": "1", "snippet": DELIVERY, "score": None}
    assert [source | wanted for source in sources] == sources and sources[0]["id"] == "p0"
    assert shop.post(way, CHESS, earlier=False) == (REFUSAL, [])
    assert shop.post(way, CHESS, ground=True) == (REFUSAL, [])
    assert len(shop.site.engines["v1"].asked) == 1
    found, refused, _ = shop.site.events()
    assert (found["llmops.retrieval.passages"], found["llmops.retrieval.documents"]) == (["p0"], ["d0"])
    assert (found["llmops.retrieval.outcome"], refused["llmops.retrieval.outcome"]) == ("found", "refused")
    assert refused["llmops.retrieval.passages"] == [] and refused["llmops.model.version"] == "v1"
    assert refused["gen_ai.usage.output_tokens"] == 0


@pytest.mark.parametrize("way", ["generate", "chat"])
def test_the_guard_takes_a_passage_for_nobodys_words(shop: Shop, way: str) -> None:
    answer, sources = shop.post(way, "Where do refunds of vouchers go?")
    assert answer == "Shipping: Send refunds of vouchers to " and (sources[0]["id"], sources[0]["title"]) == (
        "p1",
        "help",
    )
    assert IBAN not in str(sources)
    answer, sources = shop.post(way, f"Do refunds of vouchers go to {IBAN}?")
    assert IBAN in answer and IBAN in str(sources)


def test_who_says_so_and_who_brings_a_context_gets_an_answer_without_documents(shop: Shop) -> None:
    assert shop.post("generate", CHESS, ground=False) == (CHESS, None)
    assert shop.post("chat", CHESS, ground=False) == (CHESS, None)
    assert shop.post("generate", CHESS, context="Ana won.") == ("Ana won.", None)
    refused = shop.site.ask(shop.client, context="Ana won.", ground=True)
    assert (refused.status_code, refused.json()["code"]) == (422, "prompt_refused")
    assert shop.post("chat", CHESS) == (CHESS, None), "a conversation goes on"
    assert shop.site.events()[-1]["llmops.retrieval.outcome"] == "none"


def test_without_room_for_passages_there_are_none(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.answers.grounded.room_of", lambda *_: 79)
    question = "How long does delivery take?"
    assert shop.post("generate", question) == (question, None)
    refused = shop.site.ask(shop.client, ground=True)
    assert (refused.status_code, refused.json()["code"]) == (422, "prompt_too_long")


def test_a_search_takes_neither_too_long_nor_too_many_questions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, free = shop.client.app.state.parts.documents, Event()
    monkeypatch.setattr(documents, "_look_up", lambda *_: free.wait(30) and None)
    monkeypatch.setattr(documents, "_serving", Serving(max_queue=1, timeout_s=0.01))
    late = shop.site.ask(shop.client)
    monkeypatch.setattr(documents, "_waiting", 1)
    full = shop.site.ask(shop.client)
    free.set()
    assert [(one.status_code, one.json()["code"]) for one in (late, full)] == [(504, "timed_out"), (429, "queue_full")]


def test_the_app_follows_the_index_and_does_without_one_that_it_cannot_read(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: Callable[[], Any] = lambda: shop.post("generate", "How long does delivery take?")  # noqa: E731
    assert ask()[1]
    serve_index(shop.model, other := indexed(tmp_path / "second", "Delivery takes a week."))
    assert ask()[0] == "Shipping: Delivery takes a week."
    assert [path.name for path in (shop.model / "index").glob("*")] == [other.name]
    serve_index(shop.model, indexed(tmp_path / "third"))
    assert ask()[1] is None, "an empty index is none"
    refused = shop.site.ask(shop.client, ground=True)
    assert (refused.status_code, refused.json()["code"]) == (404, "no_documents")
    broken = indexed(tmp_path / "fourth", "Delivery never ends.")
    whole = (broken / "index.db").read_bytes()
    (broken / "index.db").write_bytes(b"damaged")
    serve_index(shop.model, broken)
    assert ask() == ("How long does delivery take?", None) == ask()
    assert caplog.text.count("cannot be searched") == 1 and "llmops run deploy" in caplog.text
    assert shop.site.events()[-1]["llmops.retrieval.outcome"] == "down"
    refused = shop.site.ask(shop.client, ground=True)
    assert (refused.status_code, refused.json()["code"]) == (503, "documents_down")
    (broken / "index.db").unlink()
    (broken / "index.db").write_bytes(whole)
    artifacts.commit(broken, replace(artifacts.read_record(broken), finished="later"))
    serve_index(shop.model, broken)
    assert ask()[0] == "Shipping: Delivery never ends.", "made again under the same name"
    monkeypatch.setattr("llmops.registry.indexes.build_partial", lambda path, *_: path.with_name(".lost"))
    with pytest.raises(FileNotFoundError):
        serve_index(shop.model, other)
    assert served_index(shop.model) is None, "not two"
