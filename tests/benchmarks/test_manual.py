"""What the benchmark of a manual asks, and what it counts as found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llmops.config import load
from llmops.pipeline import run_stage

Script = Callable[[str], ModuleType]
PAGE = """<html><head><title>Duties</title></head><body><h1>Duties</h1>
<h2>Being away</h2><p>Whoever is away for some weeks tells the others. They write to the list of all members, with the
days in it, and set the flag in the database.</p>
<h2>Serious bugs</h2><p>A serious bug is mended within two weeks. Who cannot do that asks for help in the report.</p>
</body></html>"""


def test_fifty_questions_have_an_answer_a_page_and_a_proof(script: Script) -> None:
    asked = script("manual").questions()
    assert len(asked) == len({one["question"] for one in asked}) == 50
    assert all(set(one) == {"question", "answer", "page", "proof"} and all(one.values()) for one in asked)


def test_a_proof_is_found_in_passages_and_in_what_is_quoted(script: Script, tmp_path: Path) -> None:
    manual = script("manual")
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "duties.html").write_text(PAGE)
    (tmp_path / "manual" / "search.html").write_text(PAGE)
    config = load(manual.settings(tmp_path / "manual", tmp_path), environ={})
    for stage in ("collect", "clean", "index"):
        run_stage(stage, config, manual.DAY)
    asked = [
        {"question": "How do I let others know that I am away?", "proof": "WRITE to the list of all members,"},
        {"question": "What if I cannot mend a serious bug in two weeks?", "proof": "asks for help in the report"},
        {"question": "Am I away for some weeks?", "proof": "for help in the repo"},
    ]
    index = manual.newest(config)
    with manual.open_index(index) as opened:
        assert opened.count()["documents"] == 2  # the sections of one page: that of the search is none
        figures = manual.found(opened, asked, "fused")
    assert figures["in 5 %"] == pytest.approx(200 / 3)
    assert manual.quoted(index, config, asked)["in the first %"] == pytest.approx(200 / 3)
