"""Prompts by `input_id`: from a stand-in store for what can go wrong, from Feast's for the real way."""

import runpy
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from fastapi.testclient import TestClient

from llmops.errors import ArtifactError
from llmops.features import declarations
from llmops.features.tokenize import Tokens


class Online:
    """One example; the id `down` finds the store broken."""

    def read(self, ids):
        if ids == ["down"]:
            raise ConnectionError("redis://secret@host is gone")
        return [Tokens(id, [7, 8, 9, 10], 2) if id == "known" else None for id in ids]


@pytest.fixture
def stored(site, client):
    """The app, its inputs read from `Online`; gives the list of versions whose store was opened."""
    opened = []
    inputs = client.app.state.parts.inputs
    inputs._open = lambda version, model: opened.append((version.name, model)) or Online()
    return opened


def ask(site, client, **body):
    return client.post("/generate", json=body, headers=site.headers())


def test_the_prompt_of_an_example_is_asked_without_its_answer(site, client, stored):
    assert ask(site, client, input_id="known").json()["response"] == "7 8"
    assert ask(site, client, input_id="known", stream=True).status_code == 200
    assert stored == [("v1", "support-bot")]


def test_an_unknown_example_is_not_found_and_named(site, client, stored):
    answer = ask(site, client, input_id="nobody")
    assert answer.status_code == 404 and answer.json()["code"] == "input_unknown" and "nobody" in answer.text


def test_a_version_without_a_feature_store_says_so(site, client):
    def nothing(version, model):
        raise ArtifactError(f"{version.path} is no feature store")

    client.app.state.parts.inputs._open = nothing
    answer = ask(site, client, input_id="known")
    assert answer.status_code == 404 and str(site.config.home) not in answer.text


def test_a_version_without_a_feature_store_does_not_import_feast(site, client, monkeypatch):
    monkeypatch.setitem(sys.modules, "llmops.features.online", None)  # importing it fails from here on
    assert ask(site, client, input_id="known").json()["code"] == "input_unknown"


def test_a_store_that_does_not_answer_is_opened_again(site, client, stored):
    answer = ask(site, client, input_id="down")
    assert answer.status_code == 503 and answer.headers["Retry-After"] and "secret" not in answer.text
    assert ask(site, client, input_id="known").status_code == 200
    assert len(stored) == 2


@pytest.mark.parametrize(("down", "status", "failed"), [({"v2"}, 200, 1), ({"v1", "v2"}, 503, 0)])
def test_where_the_canarys_store_is_down_the_champion_answers_with_its_own(site, client, down, status, failed):
    client.post("/admin/canary", json={"version": "v2", "share": 0.999999}, headers=site.headers("admin"))
    parts = client.app.state.parts
    site.until(lambda: parts.models.canary)

    def open_store(version, model):
        if version.name in down:
            raise ConnectionError("redis is gone")
        return Online()

    parts.inputs._open = open_store
    answer = ask(site, client, input_id="known")
    assert answer.status_code == status
    assert status == 503 or (answer.json()["model_version"], answer.json()["response"]) == ("v1", "7 8")
    own = parts.models._trial.own
    assert (own.canary.total("failed"), own.champion.requests) == (failed, 0)


def test_a_store_that_hangs_is_not_waited_for(site, client, stored):
    release = threading.Event()
    inputs = client.app.state.parts.inputs
    inputs._open, inputs._patience_s = lambda version, model: release.wait(60) and Online(), 0.1
    try:
        assert ask(site, client, input_id="known").json()["code"] == "features_down"
        assert ask(site, client, prompt="a").status_code == 200
    finally:
        release.set()
    site.until(lambda: ask(site, client, input_id="known").status_code == 200)


def test_the_stores_of_champion_and_canary_stay_open_and_no_others(stored, client):
    inputs = client.app.state.parts.inputs
    for name in ("v1", "v2", "v1", "v2", "v3", "v2", "v3", "v1"):
        inputs._read(SimpleNamespace(name=name), "known")
    assert [name for name, _ in stored] == ["v1", "v2", "v3", "v1"]
    assert set(inputs._stores) == {"v3", "v1"}


def test_the_champions_store_is_open_before_anybody_asks(site):
    (site.config.release.registry / "support-bot" / "versions" / "v1" / "features").mkdir()
    opened = []
    app = site.app()
    app.state.parts.inputs._open = lambda version, model: opened.append(version.name) or Online()
    with TestClient(app) as client:
        site.until(lambda: opened == ["v1"])
        site.ready(client)
        assert ask(site, client, input_id="known").status_code == 200
    assert opened == ["v1"]


def test_the_prompt_comes_from_feasts_online_store(site, client, tmp_path):
    make = runpy.run_path(str(Path(__file__).parents[2] / "features" / "conftest.py"))
    _, features = make["artifact"](site.config.home)
    name = declarations.service_name("support-bot", "v1")
    place = site.config.release.registry / "support-bot" / "versions" / "v1" / "features"
    declarations.declare_version(features, name, {}, place, place)
    (expected,) = read_offline_prompts(features)
    answer = ask(site, client, input_id="id3").json()
    assert answer["response"] == " ".join(map(str, expected))
    assert answer["usage"]["input_tokens"] == len(expected)
    assert ask(site, client, input_id="nobody").status_code == 404


def read_offline_prompts(features):
    mapped = [Dataset.from_file(str(path)) for path in sorted(features.glob("*.arrow"))]
    return [row["token_ids"][: row["prompt_tokens"]] for rows in mapped for row in rows if row["input_id"] == "id3"]
