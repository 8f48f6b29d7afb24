"""`POST /classify`: labels with probabilities, none where none is sure, and keys, limits and events as elsewhere."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llmops.model.base.classifier import CALIBRATION_FILE
from llmops.model.base.encoder import CLASSIFIES
from serving.engines.classifier import ClassifierEngine
from tests.model.samples import LABEL_WORDS, make_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small BERT with a random head for three labels."""
    folder = make_encoder(tmp_path_factory.mktemp("classifier"))
    torch.manual_seed(1)
    labels = dict(enumerate(LABEL_WORDS))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, id2label=labels, problem_type=CLASSIFIES
    )
    model.save_pretrained(folder)
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


def test_a_language_model_refuses(site: Any) -> None:
    with site.client() as client:
        site.ready(client)
        reply = ask(client, site, text="help")
    assert (reply.status_code, reply.json()["code"]) == (409, "not_a_classifier") and "v1" in reply.json()["detail"]
