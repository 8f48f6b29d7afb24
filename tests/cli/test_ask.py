"""`llmops ask`: the answer, and what it rests on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmops import cli
from llmops.config import Config
from llmops.grounding.retriever import REFUSAL
from llmops.registry.indexes import serve_index
from llmops.registry.registry import registry_of

from ..documents import CHESS, DAY, DELIVERY, SAID, indexed


@pytest.fixture(scope="module")
def home(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    registry = registry_of(Config(home=home))
    facts = ["compared_with", "compress", "base_model", "base_revision", "licence", "quantisation", "interval", "run"]
    known: dict[str, Any] = {**dict.fromkeys([*facts, "dataset"], "x"), "status": "promoted", "compared_with": "base"}
    registry.publish(known, {"servable": tiny_base}, lambda version: {}, by="a test", why="passed")
    return home


def llmops(home: Path, capsys: Any, *words: str) -> tuple[int, str, str]:
    code = cli.main([words[0], *words[1:], "--set", f"home={home}"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_prints_the_answer_with_its_sources(home: Path, capsys: Any) -> None:
    code, _, error = llmops(home, capsys, "ask", DELIVERY)
    assert code == 1 and "No index of documents is served" in error
    index = indexed(home, SAID)
    serve_index(registry_of(Config(home=home)), index, DAY, by="a test")
    shutil.rmtree(index)
    code, out, _ = llmops(home, capsys, "ask", DELIVERY, "--max-new-tokens", "4")
    assert code == 0 and "\n[1] How long does delivery take?\n    faq: faq.csv, row 1\n    Delivery takes" in out
    assert out.count("Delivery takes three to five days") < 6
    code, out, _ = llmops(home, capsys, "ask", DELIVERY, "--max-new-tokens", "4", "--show")
    assert code == 0 and out.count("Delivery takes three to five days") == 6
    code, out, _ = llmops(home, capsys, "ask", DELIVERY, "--max-new-tokens", "4", "--json")
    said = json.loads(out)
    assert (
        said["version"] == "v1" and said["sources"][0]["position"] == "row 1" and said["sources"][0]["likeness"] > 0.4
    )
    code, out, _ = llmops(home, capsys, "ask", CHESS)
    assert (code, out) == (0, f"{REFUSAL}\n")
    code, _, error = llmops(home, capsys, "ask", " ")
    assert code == 1 and "Say what to ask" in error
