"""Documents and no pairs of question and answer: nothing is trained, and what answers from the documents is judged,
released and served; some of this project's own pages, with a tiny base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmops import artifacts, cli
from llmops.config import Config, load
from llmops.grounding.retriever import REFUSAL
from llmops.pipeline import STAGES, run_stage
from llmops.registry.registry import registry_of
from llmops.release import ledger

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("access.md", "changes.md", "deployment.md", "runbook.md", "schedule.md")
QUESTION = "Which day does a run read?"


def settings(folder: Path, base: Path) -> Config:
    return load(
        ROOT / "examples" / "documents" / "config.yaml",
        overrides={
            "home": str(folder / "home"),
            "collect": {
                "root": str(folder / "pages"),
                "sources": [{"name": "pages", "kind": "markdown", "location": "*.md", "licence": "Apache-2.0"}],
            },
            "annotate": {"min_test_items": 10},
            "select": {"model": str(base)},
            "evaluate": {"max_new_tokens": 8, "grounded_items": 5},
            "govern": {"probes": False},
            "release": {"name": "pages", "min_items": 10},
        },
        environ={},
    )


def run(config: Config, day: str) -> dict[str, Path]:
    """All stages up to the release, on one day."""
    names = [name for name in STAGES if name not in ("deploy", "push_to_hub")]
    return {name: run_stage(name, config, day) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    (folder / "pages").mkdir()
    for name in PAGES:
        shutil.copy(DOCS / name, folder / "pages")
    return folder


@pytest.fixture(scope="module")
def config(folder: Path, tiny_base: Path) -> Config:
    return settings(folder, tiny_base)


@pytest.fixture(scope="module")
def stages(config: Config) -> dict[str, Path]:
    return run(config, "2026-01-30")


def decided(stages: dict[str, Path]) -> dict[str, Any]:
    decision: dict[str, Any] = json.loads((stages["release"] / "decision.json").read_text())
    return decision


def attempts(config: Config) -> int:
    registry = registry_of(config)
    with registry.database.read() as connection:
        return len(ledger.read(connection, registry.name))


def test_nothing_is_trained_and_what_quotes_the_documents_is_released(
    config: Config, stages: dict[str, Path], tiny_base: Path
) -> None:
    annotated = artifacts.read_record(stages["annotate"]).metrics
    assert annotated["train"] == 0 and annotated["test"] >= 10 and annotated["made_from_pages"] > 20
    assert artifacts.read_record(stages["tune"]).metrics["trials"] == 0
    assert artifacts.read_record(stages["train"]).metrics["examples"] == 0
    assert decided(stages)["outcome"] == "promoted", decided(stages)["reasons"]
    champion = registry_of(config).champion()
    assert champion and champion.answers == "quote" and not champion.adapter.exists()
    card = (champion.path / "README.md").read_text()
    assert "as it was, in an app that answers by quoting the documents" in card and "adapter" not in card
    evaluation = json.loads((stages["evaluate"] / "evaluation.json").read_text())
    assert evaluation["served"]["answers"] == "quote"
    assert evaluation["served"]["scores"]["quote"] > evaluation["served"]["scores"]["model"]
    rows = pq.read_table(stages["evaluate"] / "answers.parquet").to_pylist()
    ours = [row["answer"] for row in rows if row["model"] == "candidate"]
    text = " ".join(" ".join((DOCS / name).read_text().replace("*", "").split()) for name in PAGES)
    assert sum(answer[:30] in text or answer == REFUSAL for answer in ours) > len(ours) / 2
    figures = {name: metrics["token_f1"]["mean"] for name, metrics in evaluation["models"].items()}
    assert figures["base"] < figures["candidate"]
    # The candidate is the base in another form: it is asked with passages alone, and the base from memory alone; what
    # was quoted is never taken for what the model answered to the same test.
    assert {way["model"] for way in evaluation["grounded"]["ways"] if way["way"] == "closed"} == {"base"}
    assert list(json.loads((stages["evaluate"] / "asked.json").read_text())) == ["base"]
    assert list(json.loads((stages["evaluate"] / "asked_grounded.json").read_text())) == ["candidate"]


def test_it_is_asked_and_names_the_page(config: Config, stages: dict[str, Path], capsys: Any) -> None:
    said = ask(config, capsys, QUESTION)
    assert said["version"] == "v1" and [one["location"] for one in said["sources"]] == ["schedule.md"]
    assert said["response"].split(". ")[0][:30] in said["sources"][0]["text"]
    assert ask(config, capsys, "Who won the chess tournament of 1972?")["response"] == REFUSAL


def test_a_page_that_is_gone_is_cited_no_more_and_spends_no_attempt(
    config: Config, folder: Path, stages: dict[str, Path], capsys: Any
) -> None:
    before = attempts(config)
    assert before == 1
    (folder / "pages" / "schedule.md").unlink()
    decision = decided(run(config, "2026-01-31"))
    assert decision["outcome"] == "inconclusive" and "in the same way, by quoting them" in decision["reasons"][0]
    assert attempts(config) == before
    champion = registry_of(config).champion()
    assert champion and champion.name == "v1"
    assert "schedule.md" not in {one["location"] for one in ask(config, capsys, QUESTION)["sources"]}


def ask(config: Config, capsys: Any, question: str) -> dict[str, Any]:
    capsys.readouterr()
    chosen = ["--set", f"home={config.home}", "--set", "release.name=pages"]
    assert cli.main(["ask", question, "--json", *chosen]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said
