"""Smaller forms are what they say, are measured against the full model, and the rule picks among them."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmops import python_path
from llmops.config import Compress, Train
from llmops.data.features.tokenize import Tokens
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Example, write_rows
from llmops.model.base.hashes import list_model_files
from llmops.model.base.inference import open_model
from llmops.model.base.load import load_tokenizer
from llmops.model.base.packing import average_per_token
from llmops.model.compress import speed, variants
from llmops.model.compress import stage as compress
from llmops.model.compress.speed import Speed
from llmops.model.compress.stage import VariantMeasurement, choose_variant, compare_variants
from llmops.model.gguf.worker import is_gguf
from llmops.model.gguf.write import write_gguf_folder
from llmops.model.training.merge import save_merged
from llmops.prompts import encode_example
from tests.model.samples import make_example, write_random_adapter

SPEED = Speed(10.0, 100.0, 500.0)


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the stages before leave: examples, the selected base, adapter and merged model."""
    root = tmp_path_factory.mktemp("trained")
    for split in ("train", "validation"):
        write_rows(root / "annotate" / f"{split}.parquet", [make_example(n, split) for n in range(8)], Example)
    (root / "select").mkdir()
    (root / "select" / "selection.json").write_text(json.dumps({"path": str(tiny_base)}))
    adapter = write_random_adapter(tiny_base, Train(), root / "train" / "adapter")
    save_merged(str(tiny_base), adapter, "qlora", root / "train" / "servable")
    return {name: root / name for name in ("annotate", "select", "train")} | {"features": root / "features"}


@cache
def make_split(base: Path, split: str) -> list[Tokens]:
    tokenizer = load_tokenizer(base)
    rows = [make_example(n, split) for n in range(8)]
    return [Tokens(e.id, *encode_example(tokenizer, e.question, e.answer)) for e in rows]


@pytest.fixture
def measured_folders(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Features without a Feast store, and speeds without a process for each; gives the folders that were measured."""
    asked: list[Path] = []
    monkeypatch.setattr(compress, "read_offline", lambda features, split: make_split(tiny_base, split))
    monkeypatch.setattr(compress, "measure_speed", lambda folder, *_: asked.append(folder) or SPEED)
    return asked


def test_where_nothing_was_trained_the_base_is_served(trained: dict[str, Path], tmp_path: Path) -> None:
    (idle := tmp_path / "train").mkdir()
    record = Record("train", "t1", {}, {}, "", "", {"skipped": "nothing to train on"}, {}, "", "", "")
    artifacts.commit(idle, record)
    (out := tmp_path / "out").mkdir()
    for full in ("f16", "bf16"):
        found = compress.run(Compress(full=full), **{**trained, "train": idle}, out=out)
        assert found == {"chosen": full, "skipped": "nothing was trained"}
        assert is_gguf(out / "servable") is (full == "f16") and load_tokenizer(out / "servable")
        assert {path.name for path in out.iterdir()} == {"servable"}


def test_the_base_is_copied_without_links_and_other_files(tiny_base: Path, tmp_path: Path) -> None:
    """The Hub's cache has relative links to its files, and a user's folder what else they keep there."""
    (cached := tmp_path / "models" / "snapshot").mkdir(parents=True)
    for file in tiny_base.iterdir():
        shutil.copyfile(file, cached.parent / file.name)
        (cached / file.name).symlink_to(f"../{file.name}")
    (cached / "checkpoint-9").mkdir()
    (cached / "optimizer.pt").write_text("x")
    (out := tmp_path / "out").mkdir()
    compress._serve_base(Compress(full="bf16"), cached, out)
    made = list((out / "servable").iterdir())
    assert {path.name for path in made} == {path.name for path in list_model_files(tiny_base)}
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in made)


def measure_loss(folder: Path, base: Path) -> float:
    model = open_model(folder)
    found = average_per_token(model.compute_nats(make_split(base, "validation")))
    model.close()
    return found


def test_every_form_is_measured_and_the_smallest_within_is_served(
    trained: dict[str, Path], measured_folders: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    names = ("q8_0", "nf4")
    config = Compress(variants=names, within=10.0, max_new_tokens=2, bootstrap=200)
    metrics = compress.run(config, **trained, out=tmp_path)
    document = json.loads((tmp_path / "compression.json").read_text())
    rows = {row["variant"]: row for row in document["variants"]}
    assert list(rows) == ["f16", *names] and metrics["items"] == 8
    assert rows["f16"]["loss"] == pytest.approx(measure_loss(trained["train"] / "servable", tiny_base), abs=5e-3)
    assert rows["f16"]["loss_added"] == {"mean": 0.0, "low": 0.0, "high": 0.0} and rows["f16"]["same_answers"] == 1
    assert abs(rows["q8_0"]["loss_added"]["mean"]) < 0.01 and abs(rows["nf4"]["loss_added"]["mean"]) < 0.05
    for row in rows.values():
        assert row["loss_added"]["low"] <= row["loss_added"]["mean"] <= row["loss_added"]["high"]
        assert row["loss_added"]["mean"] == pytest.approx(row["loss"] - rows["f16"]["loss"], abs=2e-4)
    assert min(rows.values(), key=lambda r: r["size_mib"])["variant"] == metrics["chosen"]
    assert measure_loss(tmp_path / "servable", tiny_base) == pytest.approx(rows[metrics["chosen"]]["loss"], abs=1e-3)
    report = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in report for name in rows)
    assert {p.name for p in tmp_path.iterdir()} == {"servable", "compression.json", "report.md", "compression.png"}


def test_an_interrupted_run_goes_on_with_what_it_has_and_the_full_model_is_served_as_it_is(
    trained: dict[str, Path], measured_folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def write_copy(_: variants.VariantInputs, out: Path) -> None:
        made.append(out.name)
        if made == [".q8_0.partial", ".nf4.partial"]:
            raise MemoryError
        shutil.copytree(trained["train"] / "servable", out)

    for name in ("q8_0", "nf4"):
        monkeypatch.setitem(variants._WRITERS, name, write_copy)
    config = Compress(full="bf16", variants=("q8_0", "nf4"), prefer="fastest", max_new_tokens=2, bootstrap=200)
    with pytest.raises(MemoryError):
        compress.run(config, **trained, out=tmp_path)
    assert len(measured_folders) == 2
    (tmp_path / "servable").mkdir()  # killed while placing: the wrong files must not stay
    (tmp_path / "servable" / "stale.bin").write_text("x")
    assert compress.run(config, **trained, out=tmp_path)["chosen"] == "bf16"
    assert made.count(".q8_0.partial") == 1 and len(measured_folders) == 3  # neither made nor measured again
    served, full = tmp_path / "servable", trained["train"] / "servable"
    assert {p.name: p.read_bytes() for p in served.iterdir()} == {p.name: p.read_bytes() for p in full.iterdir()}


def make_rows(**forms: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Forms by size, speed and upper bound of the added loss."""
    return [
        {"variant": name, "size_mib": size, "tokens_per_second_batch": pace, "loss_added": {"high": high}}
        for name, (size, pace, high) in forms.items()
    ]


def test_the_rule() -> None:
    found = make_rows(f16=(260, 300, 0), nf4=(129, 96, 0.004), q8_0=(156, 350, 0.02), fp8=(110, 360, 0.5))
    assert choose_variant(found, Compress()) == "nf4"
    assert choose_variant(found, Compress(within=0.6)) == "fp8"
    assert choose_variant(found, Compress(within=0.003)) == "f16"
    assert choose_variant(found, Compress(prefer="fastest", within=0.03)) == "q8_0"


def test_the_interval_follows_the_spread_of_the_differences() -> None:
    items = [make_example(n, "validation") for n in range(40)]
    references = [Tokens(item.id, [1] * 12, 2) for item in items]

    def compute_added_loss(*nats: float) -> dict[str, float]:
        found = {
            "f16": VariantMeasurement(2.0, SPEED, [5.0] * 40, [1.0] * 40, [""] * 40),
            "q8_0": VariantMeasurement(
                1.0, SPEED, [5.0 + n for n in nats] * (40 // len(nats)), [0.5] * 40, ["", "a"] * 20
            ),
        }
        row = compare_variants(found, items, references, Compress())[1]
        assert row["token_f1_added"]["high"] == -0.5 and row["same_answers"] == 0.5
        return dict(row["loss_added"])

    assert compute_added_loss(0.1) == {"mean": 0.01, "low": 0.01, "high": 0.01}
    wide = compute_added_loss(1.0, 1.0, -1.0, -1.0)  # a topic has two wordings
    assert wide["low"] < -0.01 < 0.01 < wide["high"]
    assert compute_added_loss(1.0, -1.0) == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_stages_that_train_nothing_do_not_wait_for_what_trains() -> None:
    stages = ", ".join(f"llmops.model.{stage}.stage" for stage in ("select", "compress", "evaluate"))
    code = f"import sys, {stages}; print(*{{'bitsandbytes', 'peft'}} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": python_path()}, check=True,
                           capture_output=True, text=True)  # fmt: skip
    assert found.stdout.split() == []


@pytest.mark.journey
def test_speed_is_measured_in_a_process_of_its_own(tiny_base: Path, tmp_path: Path) -> None:
    hog = bytearray(600 * 2**20)  # what this process holds is not the model's
    write_gguf_folder(tiny_base, tmp_path / "f16", "f16")
    for folder, file in ((tiny_base, "model.safetensors"), (tmp_path / "f16", "model.gguf")):
        found = speed.measure_speed(folder, [[1, 2, 3], [4, 5]], 4, 8)
        assert len(hog) and found.tokens_per_second_batch > 0 and found.tokens_per_second_1 > 0
        assert 20 < found.memory_mib < 1500
        shutil.copytree(folder, tmp_path / f"broken-{file}")
        (tmp_path / f"broken-{file}" / file).write_bytes(b"nothing")
        with pytest.raises(LlmopsError, match="broken"):
            speed.measure_speed(tmp_path / f"broken-{file}", [[1, 2, 3]], 2, 4)


@pytest.mark.gpu
def test_fp8_is_near_the_full(
    trained: dict[str, Path], measured_folders: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("kernels", reason="needs the package kernels")
    compress.run(Compress(variants=("fp8",), within=10.0, max_new_tokens=4), **trained, out=tmp_path)
    full, small = json.loads((tmp_path / "compression.json").read_text())["variants"]
    assert small["size_mib"] < full["size_mib"] and abs(small["loss_added"]["mean"]) < 0.1
