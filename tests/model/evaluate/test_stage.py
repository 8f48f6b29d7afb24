"""Evaluation on tiny models: contracts of what it writes, reproducible bytes, slices, likelihood, the page."""

from __future__ import annotations

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
from llmops.errors import ArtifactError
from llmops.features.tokenize import Tokens
from llmops.model.base.load import load_model
from llmops.model.base.packing import answer_nats, mean_loss
from llmops.model.evaluate import stage as evaluate
from llmops.model.evaluate.slices import slices
from llmops.model.gguf.write import write_folder
from llmops.model.scoring.likelihood import bits_per_byte
from llmops.records import Example, write_rows
from llmops.release.stage import read_scores
from llmops.statistics.intervals import mean

CONFIG = Evaluate(max_new_tokens=6, batch=4, bootstrap=200, slice_items=2, worst=3)
ATTACK = "<script>alert(1)</script>"


def example(n: int, **changed: str) -> Example:
    values = {
        "id": f"{n:016x}", "question": f"Question {n}?", "answer": "We ship it " + "today " * n,
        "group": f"topic {n // 2}",
        "split": "test", "source": "faq" if n % 2 else "chats", "location": "file", "position": f"row {n}",
    }  # fmt: skip
    return Example(**{**values, **changed})


@pytest.fixture(scope="module")
def folders(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts to evaluate: the tiny model as base and champion, one with other weights as candidate."""
    home = tmp_path_factory.mktemp("evaluate")
    made = {name: home / name for name in ("annotate", "select", "compress", "index", "champion")}
    for folder in made.values():
        folder.mkdir()
    items = [example(n) for n in range(9)] + [example(9, question=ATTACK, context=ATTACK)]
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
def done(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The metrics and the folder of one evaluation with a champion."""
    out = tmp_path_factory.mktemp("out") / "out"
    return run(folders, out, champion=folders["champion"]), out


def test_the_files_are_the_same_bit_for_bit(
    folders: dict[str, Path], done: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    again = run(folders, tmp_path / "again", champion=folders["champion"])
    assert again == done[0]
    for file in ("answers.parquet", "evaluation.json", "report.html"):
        assert (tmp_path / "again" / file).read_bytes() == (done[1] / file).read_bytes(), file


def test_answers_are_what_the_gate_reads(done: tuple[dict[str, Any], Path]) -> None:
    candidate, champion = read_scores(done[1] / "answers.parquet", "champion")
    assert candidate.ids == champion.ids and len(candidate.ids) == 10
    for metric in ("token_f1", "exact_match", "rouge_l"):
        assert all(0 <= v <= 1 for v in candidate.values[metric])
    table = pq.read_table(done[1] / "answers.parquet")
    assert {"id", "question", "context", "reference", "source", "group", "model", "answer"} <= set(table.column_names)
    assert set(table["model"].to_pylist()) == {"base", "candidate", "champion"}


def test_every_figure_has_an_interval_around_it(done: tuple[dict[str, Any], Path]) -> None:
    document = json.loads((done[1] / "evaluation.json").read_text())
    assert document["items"] == 10 and document["topics"] == 5 and document["opponent"] == "champion"
    metrics = document["models"]["candidate"]
    assert {"token_f1", "exact_match", "rouge_l", "sentence_bleu", "bleu", "perplexity"} <= set(metrics)
    for model in document["models"].values():
        assert all(f["low"] <= f["high"] for f in model.values())
        assert model.keys() == metrics.keys()
    assert document["models"]["base"] == document["models"]["champion"]
    assert done[0]["candidate_token_f1"] == metrics["token_f1"]["mean"]
    difference = document["differences"]["perplexity"]
    assert difference["mean"] == pytest.approx(
        metrics["perplexity"]["mean"] - document["models"]["base"]["perplexity"]["mean"], abs=1e-3
    )


def test_a_metric_that_a_model_has_no_value_of_is_left_out() -> None:
    def answered(values: list[float | None]) -> evaluate.Answered:
        return evaluate.Answered([], {}, {"reading_ease": mean(values), "token_f1": mean([0.5, 0.7])}, {})

    found = evaluate.figures({"base": answered([None, None]), "candidate": answered([None, 60.0])}, ["a", "b"], CONFIG)
    assert set(found["models"]["candidate"]) == set(found["differences"]) == {"token_f1"}
    found = evaluate.figures({"base": answered([None, 50.0]), "candidate": answered([None, 60.0])}, ["a", "b"], CONFIG)
    assert found["differences"]["reading_ease"]["mean"] == 10


def test_slices_hold_the_same_metrics(done: tuple[dict[str, Any], Path]) -> None:
    document = json.loads((done[1] / "evaluation.json").read_text())
    assert [part["name"] for part in document["slices"]["source"]] == ["chats", "faq"]
    assert len(document["slices"]["topic"]) == 5
    for parts in document["slices"].values():
        for part in parts:
            assert "perplexity" in part["models"]["candidate"] and "bleu" not in part["models"]["candidate"]
    assert sum(part["items"] for part in document["slices"]["length"]) == 10


def test_perplexity_is_of_all_tokens_together(done: tuple[dict[str, Any], Path]) -> None:
    rows = [r for r in pq.read_table(done[1] / "answers.parquet").to_pylist() if r["model"] == "base"]
    loss = sum(r["reference_nats"] for r in rows) / sum(r["reference_tokens"] for r in rows)
    assert done[0]["base_perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)


def test_without_a_champion_the_base_is_the_opponent(folders: dict[str, Path], tmp_path: Path) -> None:
    run(folders, tmp_path / "out", CONFIG.model_copy(update={"task": "classification"}))
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["opponent"] == "base" and list(document["models"]) == ["base", "candidate"]
    assert set(document["models"]["base"]) == {"accuracy", "macro_f1", "perplexity"}


def test_an_empty_test_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    write_rows(tmp_path / "test.parquet", [], Example)
    with pytest.raises(ArtifactError, match=r"test\.parquet"):
        run({**folders, "annotate": tmp_path}, tmp_path / "out")


def test_a_champion_whose_model_was_removed_is_named_before_anything_is_asked(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="v7.*no model.*backup"):
        run(folders, tmp_path / "out", champion=tmp_path / "v7")


def test_likelihood_is_the_training_loss_by_item(tiny_base: Path) -> None:
    make = torch.Generator().manual_seed(0)
    examples = [Tokens(str(n), torch.randint(9, 99, (6 + n,), generator=make).tolist(), 3) for n in range(7)]
    model = load_model(tiny_base).float()
    found = answer_nats(model, examples, batch=3)
    assert [count for _, count in found] == [3 + n for n in range(7)]
    assert sum(n for n, _ in found) / sum(c for _, c in found) == pytest.approx(mean_loss(model, examples), rel=1e-5)
    assert found[4][0] == pytest.approx(answer_nats(model, [examples[4]])[0][0], rel=1e-4)


def test_bits_per_byte_counts_bytes_not_characters() -> None:
    measure = bits_per_byte([np.log(2) * 8, np.log(2) * 8], ["é", "ab"])
    assert measure.combine(measure.columns.sum(axis=0, keepdims=True))[0] == pytest.approx(4)


def test_slices_by_length_are_thirds_without_holes() -> None:
    items = [example(n, answer="word " * (n + 1)) for n in range(30)]
    parts = slices(items, 1)["length"]
    assert list(parts) == ["0 to 10 words", "11 to 20 words", "21 words and more"]
    assert sorted(sum(parts.values(), [])) == list(range(30))
    assert list(slices([example(n, answer="one two") for n in range(4)], 1)["length"]) == ["0 words and more"]


def test_small_slices_are_left_out_and_topics_come_by_size() -> None:
    items = [example(n, group="big" if n < 5 else f"small {n}", source="s") for n in range(8)]
    assert list(slices(items, 2)["topic"]) == ["big"]
    assert len(slices([example(n, group=str(n)) for n in range(60)], 1)["topic"]) == 20


def test_the_page_needs_no_network_and_runs_nothing(done: tuple[dict[str, Any], Path]) -> None:
    page = (done[1] / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://", page)


def test_the_page_shows_the_worst_answers_of_all_models(done: tuple[dict[str, Any], Path]) -> None:
    page = (done[1] / "report.html").read_text()
    worst = page[page.index("Worst answers") :]
    for model in ("base", "champion", "candidate"):
        assert worst.count(f'class="answer {model}"') >= CONFIG.worst
    assert "by source" in page and "by topic" in page and "by length" in page


def test_a_gguf_file_and_its_base_answer_by_openvino(
    folders: dict[str, Path], done: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    made = {**folders, "compress": tmp_path / "compress"}
    made["compress"].mkdir()
    write_folder(folders["compress"] / "servable", made["compress"] / "servable", "f16")
    found = [run(made, tmp_path / name) for name in ("a", "b")]
    assert [f.name for f in (tmp_path / "a").iterdir() if f.is_dir()] == []
    for name in ("answers.parquet", "evaluation.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    for model in ("base", "candidate"):
        key = f"{model}_perplexity"
        assert found[0][key] == pytest.approx(done[0][key], rel=0.02) and found[0][key] != done[0][key]


@pytest.mark.gpu
def test_the_same_bits_on_a_gpu(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(folders, tmp_path / name)
    assert (tmp_path / "a" / "answers.parquet").read_bytes() == (tmp_path / "b" / "answers.parquet").read_bytes()
