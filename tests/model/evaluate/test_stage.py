"""Evaluation on tiny models: contracts of what it writes, reproducible bytes, slices, likelihood, the page."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from llmops.config import Evaluate
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Example, write_rows
from llmops.frame.statistics.bootstrap import make_mean
from llmops.model.base.load import load_model
from llmops.model.evaluate import stage as evaluate
from llmops.model.evaluate.slices import make_slices
from llmops.model.gguf.write import write_gguf_folder
from llmops.model.scoring.answers import measure_bits_per_byte
from llmops.release.stage import read_scores
from tests.model.samples import make_example

CONFIG = Evaluate(max_new_tokens=6, batch=4, bootstrap=200, slice_items=2, worst=3)
ATTACK = "<script>alert(1)</script>"


def make_item(n: int, **changed: str) -> Example:
    values = {"answer": "We ship it " + "today " * n, "source": "faq" if n % 2 else "chats"}
    return make_example(n, "test", **{**values, **changed})


@pytest.fixture(scope="module")
def folders(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts to evaluate: the tiny model as base and champion, one with other weights as candidate."""
    home = tmp_path_factory.mktemp("evaluate")
    made = {name: home / name for name in ("annotate", "select", "compress", "champion")}
    for folder in made.values():
        folder.mkdir()
    items = [make_item(n) for n in range(9)] + [make_item(9, question=ATTACK, context=ATTACK)]
    write_rows(made["annotate"] / "test.parquet", items, Example)
    (made["select"] / "selection.json").write_text(json.dumps({"path": str(tiny_base)}))
    (made["champion"] / "servable").symlink_to(tiny_base)
    shutil.copytree(tiny_base, made["compress"] / "servable")
    model = load_model(tiny_base)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    model.save_pretrained(made["compress"] / "servable")
    return made


def run(folders: dict[str, Path], out: Path, config: Evaluate = CONFIG, **changed: Any) -> dict[str, Any]:
    out.mkdir()
    inputs = {name: path for name, path in folders.items() if name != "champion"}
    return evaluate.run(config, **inputs, **changed, out=out)


@pytest.fixture(scope="module")
def evaluation(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The metrics and the folder of one evaluation with a champion."""
    out = tmp_path_factory.mktemp("out") / "out"
    return run(folders, out, champion=folders["champion"]), out


def test_the_files_are_the_same_bit_for_bit(folders: dict[str, Path], tmp_path: Path) -> None:
    """The untuned base is the opponent where there is no champion."""
    config = CONFIG.model_copy(update={"task": "classification"})
    write_gguf_folder(folders["compress"] / "servable", tmp_path / "gguf" / "servable", "f16")
    small = run({**folders, "compress": tmp_path / "gguf"}, tmp_path / "c", config)  # base and candidate by OpenVINO
    assert not (tmp_path / "c" / "base").exists()
    found = run(folders, tmp_path / "a", config)
    assert found == run(folders, tmp_path / "b", config)
    perplexities = [name for name in found if name.endswith("perplexity")]
    assert [small[name] for name in perplexities] == pytest.approx([found[name] for name in perplexities], rel=0.02)
    for file in ("answers.parquet", "evaluation.json", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    document = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert document["opponent"] == "base" and list(document["models"]) == ["base", "candidate"]
    assert set(document["models"]["base"]) == {"accuracy", "macro_f1", "perplexity"}


def test_answers_are_what_the_gate_reads_and_every_figure_has_an_interval(
    evaluation: tuple[dict[str, Any], Path],
) -> None:
    candidate, champion = read_scores(evaluation[1] / "answers.parquet", "champion")
    assert candidate.ids == champion.ids and len(candidate.ids) == 10
    table = pq.read_table(evaluation[1] / "answers.parquet")
    assert {"id", "question", "context", "reference", "source", "group", "model", "answer"} <= set(table.column_names)
    assert set(table["model"].to_pylist()) == {"base", "candidate", "champion"}

    document = json.loads((evaluation[1] / "evaluation.json").read_text())
    assert document["items"] == 10 and document["topics"] == 5 and document["opponent"] == "champion"
    metrics = document["models"]["candidate"]
    assert {"token_f1", "exact_match", "rouge_l", "sentence_bleu", "bleu", "perplexity"} <= set(metrics)
    for model in document["models"].values():
        assert all(f["low"] <= f["high"] for f in model.values()) and model.keys() == metrics.keys()
    assert document["models"]["base"] == document["models"]["champion"]
    assert evaluation[0]["candidate_token_f1"] == metrics["token_f1"]["mean"]
    added = metrics["perplexity"]["mean"] - document["models"]["base"]["perplexity"]["mean"]
    assert document["differences"]["perplexity"]["mean"] == pytest.approx(added, abs=1e-3)


def test_a_metric_that_a_model_has_no_value_of_is_left_out() -> None:
    def make_answers(values: list[float | None]) -> evaluate.ScoredAnswers:
        return evaluate.ScoredAnswers(
            [], {}, {"reading_ease": make_mean(values), "token_f1": make_mean([0.5, 0.7])}, {}
        )

    found = evaluate.compute_figures(
        {"base": make_answers([None, None]), "candidate": make_answers([None, 60.0])}, ["a", "b"], CONFIG
    )
    assert set(found["models"]["candidate"]) == set(found["differences"]) == {"token_f1"}
    found = evaluate.compute_figures(
        {"base": make_answers([None, 50.0]), "candidate": make_answers([None, 60.0])}, ["a", "b"], CONFIG
    )
    assert found["differences"]["reading_ease"]["mean"] == 10


def test_slices_are_of_all_items_and_perplexity_is_of_all_tokens(evaluation: tuple[dict[str, Any], Path]) -> None:
    document = json.loads((evaluation[1] / "evaluation.json").read_text())
    assert [part["name"] for part in document["slices"]["source"]] == ["chats", "faq"]
    assert len(document["slices"]["topic"]) == 5
    assert sum(part["items"] for part in document["slices"]["length"]) == 10
    rows = [r for r in pq.read_table(evaluation[1] / "answers.parquet").to_pylist() if r["model"] == "base"]
    loss = sum(r["reference_nats"] for r in rows) / sum(r["reference_tokens"] for r in rows)
    assert evaluation[0]["base_perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)


def test_an_empty_test_and_a_champion_whose_model_is_gone_are_errors(folders: dict[str, Path], tmp_path: Path) -> None:
    write_rows(tmp_path / "test.parquet", [], Example)
    with pytest.raises(ArtifactError, match=r"test\.parquet"):
        run({**folders, "annotate": tmp_path}, tmp_path / "empty")
    with pytest.raises(ArtifactError, match="v7.*no model.*backup"):
        run(folders, tmp_path / "out", champion=tmp_path / "v7")


def test_bits_per_byte_counts_bytes_not_characters() -> None:
    measure = measure_bits_per_byte([np.log(2) * 8, np.log(2) * 8], ["é", "ab"])
    assert measure.combine(measure.columns.sum(axis=0, keepdims=True))[0] == pytest.approx(4)


def test_slices_by_length_are_thirds_without_holes() -> None:
    items = [make_item(n, answer="word " * (n + 1)) for n in range(30)]
    parts = make_slices(items, 1)["length"]
    assert list(parts) == ["0 to 10 words", "11 to 20 words", "21 words and more"]
    assert sorted(sum(parts.values(), [])) == list(range(30))
    assert list(make_slices([make_item(n, answer="one two") for n in range(4)], 1)["length"]) == ["0 words and more"]
    assert len(make_slices([make_item(n, group=str(n)) for n in range(60)], 1)["topic"]) == 20


def test_the_page_needs_no_network_and_runs_nothing(evaluation: tuple[dict[str, Any], Path]) -> None:
    page = (evaluation[1] / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://", page)
    worst = page[page.index("Worst answers") :]
    for model in ("base", "champion", "candidate"):
        assert worst.count(f'class="answer {model}"') >= CONFIG.worst


@pytest.mark.gpu
def test_the_same_bits_on_a_gpu(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(folders, tmp_path / name)
    assert (tmp_path / "a" / "answers.parquet").read_bytes() == (tmp_path / "b" / "answers.parquet").read_bytes()
