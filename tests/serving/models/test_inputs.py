"""Prompts by `input_id`: from a stand-in store for what can go wrong, from Feast's for the real way."""

import runpy
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from datasets import Dataset

from llmops.data.features import declarations
from llmops.data.features.tokenize import Tokens


class Online:
    """One example; the id `down` finds the store broken."""

    def read(self, ids):
        if ids == ["down"]:
            raise ConnectionError("redis://secret@host is gone")
        return [Tokens(id, [7, 8, 9, 10], 2) if id == "known" else None for id in ids]


@pytest.fixture
def inputs(shared_client, monkeypatch):
    """What reads the inputs of the module's app; no store is open, and a test may put another `_open`."""
    inputs = shared_client.app.state.parts.inputs
    monkeypatch.setattr(inputs, "_stores", {})
    monkeypatch.setattr(inputs, "_open", inputs._open)
    monkeypatch.setattr(inputs, "_timeout_s", inputs._timeout_s)
    return inputs


@pytest.fixture
def stored(inputs):
    """The module's app, its inputs read from `Online`; gives the list of versions whose store was opened."""
    opened = []
    inputs._open = lambda version, model: opened.append((version.name, model)) or Online()
    return opened


@pytest.fixture
def ask(shared_site, shared_client):
    return lambda **body: shared_client.post("/generate", json=body, headers=shared_site.headers())


def test_the_prompt_of_an_example_is_asked_without_its_answer(ask, stored):
    assert ask(input_id="known").json()["response"] == "7 8"
    assert ask(input_id="known", stream=True).status_code == 200
    assert stored == [("v1", "support-bot")]
    unknown = ask(input_id="nobody")
    assert unknown.status_code == 404 and unknown.json()["code"] == "input_unknown" and "nobody" in unknown.text


def test_a_version_without_a_feature_store_says_so_and_does_not_import_feast(ask, inputs, shared_site, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmops.data.features.online", None)  # importing it fails from here on
    answer = ask(input_id="known")
    assert (answer.status_code, answer.json()["code"]) == (404, "input_unknown")
    assert str(shared_site.config.home) not in answer.text
    features = shared_site.config.release.registry / "support-bot" / "versions" / "v1" / "features"
    features.mkdir()
    answer = ask(input_id="known")
    features.rmdir()
    assert (answer.status_code, answer.json()["code"]) == (501, "features_missing")


def test_a_store_that_does_not_answer_is_opened_again(ask, stored):
    answer = ask(input_id="down")
    assert answer.status_code == 503 and answer.headers["Retry-After"] and "secret" not in answer.text
    assert ask(input_id="known").status_code == 200
    assert len(stored) == 2


def test_a_canary_whose_store_is_down_has_failed(site, client):
    client.post("/admin/canary", json={"version": "v2", "share": 0.999}, headers=site.headers("admin"))
    parts = client.app.state.parts
    site.until(lambda: parts.models.canary)
    assert parts.models.choose(site.keys["user"].split("_")[1]).version.name == "v2"
    own = parts.models._trial.own_counts
    parts.inputs._open = Mock(side_effect=ConnectionError("redis is gone"))
    assert client.post("/generate", json={"input_id": "known"}, headers=site.headers()).status_code == 503
    assert (own.canary.total("failed"), own.champion.requests) == (1, 0)


def test_a_store_that_hangs_is_not_waited_for(ask, inputs, shared_site):
    release = threading.Event()
    inputs._open, inputs._timeout_s = lambda version, model: release.wait(60) and Online(), 0.05
    try:
        assert ask(input_id="known").json()["code"] == "features_down"
        assert ask(prompt="a").status_code == 200
    finally:
        release.set()
    shared_site.until(lambda: ask(input_id="known").status_code == 200)


@pytest.mark.service  # importing Feast takes seconds
def test_the_prompt_comes_from_feasts_online_store_which_is_open_before_anybody_asks(site):
    make = runpy.run_path(str(Path(__file__).parents[2] / "data" / "features" / "conftest.py"))
    _, features = make["artifact"](site.config.home)
    name = declarations.make_service_name("support-bot", "v1")
    place = site.config.release.registry / "support-bot" / "versions" / "v1" / "features"
    declarations.declare_version(features, name, {}, place, place)
    mapped = [Dataset.from_file(str(path)) for path in sorted(features.glob("*.arrow"))]
    (expected,) = (
        row["token_ids"][: row["prompt_tokens"]] for rows in mapped for row in rows if row["input_id"] == "id3"
    )
    with site.client() as client:
        site.until(lambda: client.app.state.parts.inputs._stores)
        site.ready(client)
        answer = client.post("/generate", json={"input_id": "id3"}, headers=site.headers()).json()
        unknown = client.post("/generate", json={"input_id": "nobody"}, headers=site.headers())
    assert answer["response"] == " ".join(map(str, expected))
    assert answer["usage"]["input_tokens"] == len(expected)
    assert unknown.status_code == 404
