"""`POST /classify`: labels with probabilities, none where none is sure, and keys, limits and events as elsewhere."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llmops.data.feedback import intake
from llmops.data.feedback.documents import read_accepted
from llmops.events.reader import make_reader
from llmops.events.shipping import drain_spool
from llmops.model.base.classifier import CALIBRATION_FILE, GRAPH_FILE
from llmops.model.base.encoder import CLASSIFIES, convert_to_openvino
from llmops.state.database import database_of
from serving.app import _make_engine_factory
from serving.engines.classifier import ClassifierEngine
from serving.errors import QueueFull
from tests.model.samples import LABEL_WORDS, make_encoder
from tests.serving.echo import EchoEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small BERT with a random head for three labels."""
    return make_classifier(tmp_path_factory.mktemp("classifier"), list(LABEL_WORDS))


def make_classifier(folder: Path, names: Sequence[str]) -> Path:
    make_encoder(folder)
    torch.manual_seed(1)
    labels = dict(enumerate(names))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, id2label=labels, problem_type=CLASSIFIES
    )
    model.save_pretrained(folder)
    openvino.save_model(convert_to_openvino(folder), folder / GRAPH_FILE)
    return folder


@pytest.fixture
def client(site: Any, folder: Path) -> Iterator[Any]:
    """Return a client of an app whose champion is the classifier; `site.calibrate` sets its calibration before."""
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    with site.client(make_engine(folder)) as client:
        site.ready(client)
        yield client


def make_engine(folder: Path) -> Callable[[Any], ClassifierEngine]:
    return lambda version: ClassifierEngine(folder, 64, 64)


def ask(client: Any, site: Any, **body: Any) -> Any:
    return client.post("/classify", json=body, headers=site.headers())


def test_a_text_gets_the_likeliest_label_and_a_list_keeps_its_order(site: Any, client: Any) -> None:
    texts = ["my card is stolen", "please send it today", "help"]
    single = [ask(client, site, text=text).json()["results"][0] for text in texts]
    reply = ask(client, site, text=texts, top_k=2)
    assert reply.status_code == 200 and reply.json()["model_version"] == "v1"
    assert [one["label"] for one in reply.json()["results"]] == [one["label"] for one in single]
    assert reply.json()["usage"]["output_tokens"] == 3
    for one, whole in zip(reply.json()["results"], single, strict=True):
        assert len(one["labels"]) == 2 and len(whole["labels"]) == 3
        assert sum(label["probability"] for label in whole["labels"]) == pytest.approx(1, abs=1e-4)
        assert whole["labels"][0] == {"label": whole["label"], "probability": whole["probability"]}


def test_a_label_that_is_not_sure_enough_is_not_given(site: Any, folder: Path) -> None:
    (folder / CALIBRATION_FILE).write_text(json.dumps({"temperature": 1.0, "threshold": 0.999}))
    with site.client(make_engine(folder)) as client:
        site.ready(client)
        (found,) = ask(client, site, text="help").json()["results"]
        assert found["label"] is None and found["labels"][0]["probability"] == found["probability"] < 0.999
        assert site.ask(client).json()["response"] == ""


def test_the_threshold_is_set_without_a_new_version(site: Any, folder: Path) -> None:
    """The highest threshold gives no label."""
    (folder / CALIBRATION_FILE).write_text(json.dumps({"temperature": 1.0, "threshold": 0.0}))
    for threshold, is_given in ((None, True), (0.0, True), (1.0, False)):
        serving = site.config.serving.model_copy(update={"classify_threshold": threshold})
        make = _make_engine_factory(site.config.model_copy(update={"serving": serving}))
        with site.client(lambda _, make=make: make(SimpleNamespace(servable=folder))) as client:
            site.ready(client)
            found = ask(client, site, text="my card is stolen").json()["results"][0]
            assert bool(found["label"]) == is_given and found["labels"][0]["probability"] > 0.3
    (folder / CALIBRATION_FILE).unlink()


def test_a_question_to_a_classifier_is_answered_with_a_label(site: Any, client: Any) -> None:
    answer = site.ask(client, prompt="my card is stolen").json()
    assert answer["response"] == ask(client, site, text="my card is stolen").json()["results"][0]["label"]
    assert answer["usage"]["output_tokens"] == 1
    chat = {"model": site.config.release.name, "messages": [{"role": "user", "content": "my card is stolen"}]}
    reply = client.post("/v1/chat/completions", json=chat, headers=site.headers()).json()
    assert reply["choices"][0]["message"]["content"] == answer["response"]


def test_it_is_recorded_and_limited_like_every_request(site: Any, client: Any) -> None:
    ask(client, site, text=["help", "my card"])
    assert client.post("/classify", json={"text": "help"}).status_code == 401
    (event,) = [one for one in site.events() if one["url.path"] == "/classify"]
    assert event["gen_ai.operation.name"] == "classify" and event["llmops.model.version"] == "v1"
    assert event["gen_ai.usage.output_tokens"] == 2 and len(event["llmops.prompt.digest"]) == 2


def test_a_text_longer_than_the_model_reads_is_cut_and_says_so(site: Any, client: Any) -> None:
    found = ask(client, site, text=["help " * 30, "help"]).json()["results"]
    assert [one["truncated"] for one in found] == [True, False]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"text": []}, 422), ({"text": ["a"] * 65}, 422), ({"text": " "}, 422), ({"text": "x" * 201}, 422), ({}, 422)],
)
def test_what_cannot_be_classified_is_refused(site: Any, client: Any, body: Any, status: int) -> None:
    assert ask(client, site, **body).status_code == status


def test_texts_are_not_computed_for_a_request_that_found_no_room_for_all(
    site: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, streams, cancelled = client.app.state.parts.models, [], []
    generate = models.generate

    def fill(*args: Any, **kwargs: Any) -> Any:
        if len(streams) == 2:
            raise QueueFull(2, 1)
        streams.append(generate(*args, **kwargs))
        monkeypatch.setattr(streams[-1], "cancel", lambda: cancelled.append(True))
        return streams[-1]

    monkeypatch.setattr(models, "generate", fill)
    assert ask(client, site, text=["help", "my card", "today"]).status_code == 429
    assert len(cancelled) == 2


def test_a_language_model_refuses(site: Any) -> None:
    with site.client() as client:
        site.ready(client)
        reply = ask(client, site, text="help")
    assert (reply.status_code, reply.json()["code"]) == (409, "not_a_classifier") and "v1" in reply.json()["detail"]


def test_a_canary_is_promoted_and_rolled_back(site: Any, folder: Path, tmp_path: Path) -> None:
    """The other version has other names for the labels, so that an answer tells which of them gave it."""
    (tmp_path / "v2").mkdir()
    engines = {"v1": folder, "v2": make_classifier(tmp_path / "v2", ["one", "two", "three"])}
    with site.client(lambda version: ClassifierEngine(engines[version.name], 64, 64)) as client:

        def classify() -> tuple[str, bool]:
            reply = ask(client, site, text="my card is stolen").json()
            return reply["model_version"], reply["results"][0]["label"] in LABEL_WORDS

        def decide(action: str, **body: Any) -> int:
            return int(client.post(f"/admin/{action}", json=body, headers=site.headers("admin")).status_code)

        site.ready(client)
        assert classify() == ("v1", True)
        assert decide("canary", version="v2", share=0.999) == 200
        site.until(lambda: client.app.state.parts.models.canary)
        assert classify() == ("v2", False)
        assert decide("canary", stop=True) == 200
        site.until(lambda: not client.app.state.parts.models.canary)
        assert classify() == ("v1", True)
        assert decide("promote", version="v2") == 200
        site.ready(client, "v2")
        assert classify() == ("v2", False)
        assert decide("rollback") == 200
        site.ready(client, "v1")
        assert classify() == ("v1", True)


def test_the_champion_classifies_in_place_of_a_language_model(site: Any, folder: Path) -> None:
    with site.client(lambda one: EchoEngine() if one.name == "v2" else ClassifierEngine(folder, 64, 64)) as client:
        site.ready(client)
        site.start_canary(client, share=0.999)
        replies = [ask(client, site, text=["help", "my card"]) for _ in range(4)]
        own = client.app.state.parts.models._trial.own_counts
        assert [reply.status_code for reply in replies] == [200] * 4
        assert {reply.json()["model_version"] for reply in replies} == {"v1"}
        assert (own.canary.total("failed"), own.champion.requests) == (4, 0)


def test_a_canary_that_alone_gives_labels_counts_in_no_trial(site: Any, folder: Path) -> None:
    """Its champion, a language model, could not stand in."""
    with site.client(lambda one: EchoEngine() if one.name == "v1" else ClassifierEngine(folder, 64, 64)) as client:
        site.ready(client)
        site.start_canary(client, share=0.999)
        reply = ask(client, site, text=["help", "my card"])
        own = client.app.state.parts.models._trial.own_counts
        assert (reply.status_code, reply.json()["model_version"]) == (200, "v2")
        assert own.canary.requests == own.champion.requests == 0


def test_all_texts_of_a_request_are_classified_by_one_version(site: Any, folder: Path, tmp_path: Path) -> None:
    """The canary has no room for the second text, so the champion, whose labels are others, gives both."""
    other = make_classifier(tmp_path, ["one", "two", "three"])

    def make(version: Any) -> ClassifierEngine:
        return ClassifierEngine(other, 0, 1) if version.name == "v2" else ClassifierEngine(folder, 64, 64)

    with site.client(make) as client:
        site.ready(client)
        site.start_canary(client, share=0.999)
        reply = ask(client, site, text=["help", "my card"]).json()
    assert reply["model_version"] == "v1" and {one["label"] for one in reply["results"]} <= {*LABEL_WORDS}


def test_two_apps_of_one_home_serve_a_language_model_and_a_classifier(site: Any, folder: Path) -> None:
    """Their models have different names; keys and events are those of the home."""
    other = copy(site)
    release = site.config.release.model_copy(update={"name": "intents"})
    other.config = site.config.model_copy(update={"release": release})
    other.release()
    with site.client() as answering, other.client(make_engine(folder)) as classifying:
        site.ready(answering)
        other.ready(classifying)
        assert ask(answering, site, text="help").status_code == 409
        assert ask(classifying, site, text="help").json()["model"] == "intents"
        assert site.ask(answering).json()["response"] != site.ask(classifying).json()["response"]
    by_model = Counter(event["gen_ai.request.model"] for event in site.events() if event["event.outcome"] == "success")
    assert by_model == {"support-bot": 1, "intents": 2}


def test_the_right_label_that_a_developer_sends_becomes_training_data(site: Any, client: Any) -> None:
    headers, text = site.headers("developer"), "my card is stolen"
    reply = client.post("/classify", json={"text": text}, headers=headers).json()
    wrong = reply["results"][0]["label"]
    right = next(label for label in LABEL_WORDS if label != wrong)
    feedback = {"id": reply["id"], "question": text, "answer": wrong, "correction": right, "rating": "down"}
    assert client.post("/feedback", json=feedback, headers=headers).status_code == 201
    drain_spool(site.config.events, site.config.monitoring)
    day = datetime.now(UTC).date().isoformat()
    end = intake.get_interval_end(day)
    intake.ingest(database_of(site.config), make_reader(site.config), site.config.improve, end)
    assert [(row.question, row.text) for row in read_accepted(site.config.database, day)] == [(text, right)]
