"""The gate lets no trained model through, and still something is served: the base, answering from the documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmops import fallback
from llmops.config import Config, load
from llmops.errors import ConfigError
from llmops.pipeline import STAGES, Plan, run_stage
from llmops.registry.registry import registry_of
from llmops.release import ledger

ROOT = Path(__file__).parents[2]
DAY = "2026-01-31"
SOURCES = [
    {"name": "help", "kind": "html", "location": "sources/help/*.html"},
    {
        "name": "faq",
        "kind": "csv",
        "location": "sources/faq.csv",
        "encoding": "cp1252",
        "fields": {"question": "question", "answer": "answer", "context": "context", "group": "topic"},
    },
]
SETTINGS: dict[str, Any] = {
    "collect": {"root": str(ROOT / "examples/support_bot"), "sources": SOURCES},
    "grounding": {"enabled": True},
    "annotate": {"min_test_items": 10},
    "tune": {"trials": 0},
    "train": {"epochs": 0.1, "learning_rate": 1e-7},  # it learns nothing, so it is no better than its base
    "compress": {"within": 9, "max_new_tokens": 8},
    "evaluate": {"max_new_tokens": 8, "grounded_items": 8},
    "govern": {"probes": False, "fail_on": "never"},
    "release": {"floors": {}, "min_items": 10},
}


@pytest.fixture(scope="module")
def config(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    where = {"home": str(tmp_path_factory.mktemp("fallback")), "select": {"model": str(tiny_base)}}
    return load(overrides=SETTINGS | where, environ={})


@pytest.fixture(scope="module")
def done(config: Config) -> dict[str, Path]:
    """The artifacts of a run up to the release of what it trained."""
    return trained(config)


def trained(config: Config) -> dict[str, Path]:
    made: dict[str, Path] = {}
    for name in list(STAGES)[: list(STAGES).index("release") + 1]:
        made[name] = run_stage(name, config, DAY, made)
    return made


def decision(release: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release / "decision.json").read_text())
    return found


def attempts(config: Config) -> int:
    registry = registry_of(config)
    with registry.database.read() as connection:
        return len(ledger.read(connection, registry.name))


def test_what_was_refused_is_judged_anew_when_more_is_let_through(config: Config) -> None:
    """So strict that nothing is found good enough to answer from."""
    grounding = config.grounding.model_copy(update={"likeness": 0.99})
    strict = config.model_copy(update={"grounding": grounding})
    made = trained(strict)
    first = decision(made["release"])
    assert (first["version"], first["opponent"]) == ("v1", "base") and first["outcome"] != "promoted"
    second = decision(fallback.fall_back(strict, DAY, made))
    assert (second["version"], second["opponent"]) == ("v2", "base") and second["outcome"] != "promoted"
    assert registry_of(config).champion() is None and attempts(config) == 2
    assert decision(fallback.fall_back(strict, DAY, made)) == second and attempts(config) == 2
    planned = fallback.plans(strict, DAY)
    assert [name for name, plan in planned.items() if isinstance(plan, Plan) and plan.done] == list(STAGES)[:-2]
    assert isinstance(planned["deploy"], Plan)  # by what was decided last


def test_one_that_is_killed_goes_on_and_the_base_answers_from_the_documents(
    config: Config, done: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decision(done["release"])
    assert first["version"] == "v1" and fallback.plans(config, DAY)["deploy"] is None  # it hangs on what is not made

    def killed(name: str, *arguments: Any, **more: Any) -> Path:
        if name == "evaluate":
            raise KeyboardInterrupt
        return run_stage(name, *arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fallback, "run_stage", killed)
        fallback.fall_back(config, DAY, done)
    assert registry_of(config).champion() is None

    release = fallback.fall_back(config, DAY, done)
    assert decision(release)["outcome"] == "promoted", decision(release)["reasons"]
    champion = registry_of(config).champion()
    assert champion and (champion.name, champion.answers) == ("v2", "quote") and not champion.adapter.exists()
    card = (champion.path / "README.md").read_text()
    assert "as it was, in an app that answers by quoting the documents" in card and "which was not trained on" in card
    assert "made from the pages" not in card
    assert fallback.fall_back(config, DAY, done, run="another", attempt=2) == release  # a later try ends alike
    assert attempts(config) == 3
    assert registry_of(config).get("v1").status == first["outcome"]


def test_what_is_trained_next_has_to_answer_better_than_that(config: Config, done: dict[str, Path]) -> None:
    """Closed book it might well be better than its base; but that is not what is served."""
    fallback.fall_back(config, DAY, done)
    other = config.model_copy(
        update={
            "train": config.train.model_copy(update={"epochs": 1.0, "learning_rate": 0.005}),
            "evaluate": config.evaluate.model_copy(update={"grounded_items": 0}),
        }
    )
    made = trained(other)
    found = decision(made["release"])
    assert (found["opponent"], found["outcome"]) == ("v2", "inconclusive")
    assert "v2 answers from the documents in the same way, by quoting them" in found["reasons"][0]
    evaluation = json.loads((made["evaluate"] / "evaluation.json").read_text())
    assert evaluation["served"]["answers"] == "quote" and attempts(config) == 3
    assert evaluation["models"]["candidate"]["token_f1"]["mean"] == evaluation["models"]["champion"]["token_f1"]["mean"]
    assert fallback.fall_back(other, DAY, made) == made["release"]  # there is something to serve
    champion = registry_of(config).champion()
    assert champion and champion.name == "v2"


def test_without_documents_there_is_nothing_to_fall_back_on(config: Config, done: dict[str, Path]) -> None:
    without = config.model_copy(update={"grounding": config.grounding.model_copy(update={"enabled": False})})
    assert fallback.fall_back(without, DAY, done) == done["release"]
    with pytest.raises(ConfigError, match="train.enabled is off, so the base answers from the documents"):
        load(overrides={"train": {"enabled": False}}, environ={})
