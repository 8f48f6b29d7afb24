"""Smaller forms are what they say, are measured against the full model, and the rule picks among them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from llmops.config import Compress, Train
from llmops.config import model as sections
from llmops.errors import ConfigError, LlmopsError
from llmops.features.tokenize import Tokens
from llmops.model.base.answering import open_model
from llmops.model.base.load import load_model, load_servable, load_tokenizer
from llmops.model.base.packing import mean_loss, per_token
from llmops.model.compress import speed, variants
from llmops.model.compress import stage as compress
from llmops.model.compress.prune import prune
from llmops.model.compress.speed import Speed
from llmops.model.compress.stage import Measured, choose_variant, compare_variants
from llmops.model.gguf.write import write_folder
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, trainable
from llmops.prompts import training_ids
from llmops.records import Example, write_rows

QUIET = Speed(10.0, 100.0, 500.0)
FULL = "bf16" if torch.cuda.is_available() else "f16"


def example(number: int, split: str) -> Example:
    return Example(
        id=f"{split}{number}", question=f"What is {number} and {number + 1}?", answer=f"It is {2 * number + 1}.",
        group=f"g{number // 2}", split=split, source="faq", location="t", position=f"row {number}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the stages before leave: examples, the selected base, adapter and merged model."""
    root = tmp_path_factory.mktemp("trained")
    for split in ("train", "validation"):
        write_rows(root / "annotate" / f"{split}.parquet", [example(n, split) for n in range(8)], Example)
    (root / "select").mkdir()
    (root / "select" / "selection.json").write_text(json.dumps({"path": str(tiny_base)}))
    model = trainable(str(tiny_base), Train(), Hyperparameters(learning_rate=1e-3, rank=4, batch=4))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    model.save_pretrained(root / "train" / "adapter")
    save_merged(str(tiny_base), root / "train" / "adapter", "qlora", root / "train" / "servable")
    return {name: root / name for name in ("annotate", "select", "train")} | {"features": root / "features"}


def tokens(base: Path, split: str) -> list[Tokens]:
    tokenizer = load_tokenizer(base)
    rows = [example(n, split) for n in range(8)]
    return [Tokens(e.id, *training_ids(tokenizer, e.question, e.answer)) for e in rows]


@pytest.fixture
def stubbed(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Features without a Feast store, and speeds without a process for each; gives the folders that were measured."""
    asked: list[Path] = []

    def measure(folder: Path, requests: Sequence[Sequence[int]], batch: int, new_tokens: int) -> Speed:
        asked.append(folder)
        return QUIET

    monkeypatch.setattr(compress, "read_offline", lambda features, split: tokens(tiny_base, split))
    monkeypatch.setattr(compress, "measure", measure)
    return asked


def loss(folder: Path, base: Path) -> float:
    return per_token(open_model(folder).nats(tokens(base, "validation")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("costs", "chosen", "judged"), [(0.0, "q8_0", "is within"), (0.5, "f16", "is more than")])
def test_by_default_8_bits_are_served_if_they_cost_little_enough_else_16(
    costs: float,
    chosen: str,
    judged: str,
    trained: dict[str, Path],
    stubbed: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """8 bits cost a model of random weights nothing, or help it: `costs` are the nats a token that they cost more."""
    measure = compress._measure_variant

    def dearer(folder: Path, items: Sequence[Example], references: Sequence[Tokens], *rest: Any) -> Measured:
        found = measure(folder, items, references, *rest)
        answers = [len(r.token_ids) - r.prompt_tokens for r in references]
        more = costs if folder.name == "q8_0" else 0.0
        return replace(found, nats=[nats + more * n for nats, n in zip(found.nats, answers, strict=True)])

    monkeypatch.setattr(compress, "_measure_variant", dearer)
    with caplog.at_level("INFO"):
        metrics = compress.run(Compress(within=0.1, max_new_tokens=4), **trained, out=tmp_path)
    assert metrics["chosen"] == chosen and metrics["items"] == 8
    document = json.loads((tmp_path / "compression.json").read_text())
    assert [row["variant"] for row in document["variants"]] == ["f16", "q8_0"]
    for told in (metrics["why"], document["why"], (tmp_path / "report.md").read_text(), caplog.text):
        assert f"nats per answer token, which {judged}" in told
    full = {path.name for path in (trained["train"] / "servable").iterdir()}
    assert {path.name for path in (tmp_path / "servable").iterdir()} == full - {"model.safetensors"} | {"model.gguf"}
    small = (tmp_path / "servable" / "model.gguf").stat().st_size < (
        trained["train"] / "servable" / "model.safetensors"
    ).stat().st_size
    assert small is (chosen == "q8_0")


def test_without_smaller_forms_the_full_model_is_served(
    trained: dict[str, Path], stubbed: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    metrics = compress.run(Compress(variants=(), max_new_tokens=4), **trained, out=tmp_path)
    assert metrics["chosen"] == FULL
    assert {p.name for p in tmp_path.iterdir()} == {"servable", "compression.json", "report.md", "compression.png"}
    (row,) = json.loads((tmp_path / "compression.json").read_text())["variants"]
    assert row["loss_added"] == {"mean": 0.0, "low": 0.0, "high": 0.0} and row["same_answers"] == 1
    merged = mean_loss(load_servable(trained["train"] / "servable")[0].float(), tokens(tiny_base, "validation"))
    assert row["loss"] == pytest.approx(merged, abs=2e-3)


def test_a_model_that_cannot_be_a_gguf_file_is_served_in_bfloat16(
    trained: dict[str, Path], stubbed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "supported", lambda folder: "it is of another kind")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert compress.run(Compress(max_new_tokens=4), **trained, out=tmp_path / "a")["chosen"] == "bf16"
    assert {p.name: p.read_bytes() for p in (tmp_path / "a" / "servable").iterdir()} == {
        p.name: p.read_bytes() for p in (trained["train"] / "servable").iterdir()
    }
    with pytest.raises(ConfigError, match=r"q4_1.*it is of another kind"):
        compress.run(Compress(variants=("q4_1",), max_new_tokens=4), **trained, out=tmp_path / "b")


@pytest.mark.slow
def test_every_form_is_measured_and_the_smallest_within_is_served(
    trained: dict[str, Path], stubbed: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    names = ("q8_0", "q4_1", "nf4", "w8a16", "pruned", "recovered")
    config = Compress(variants=names, within=10.0, prune=0.5, recovery_epochs=1, max_new_tokens=4)
    metrics = compress.run(config, **trained, out=tmp_path)
    document = json.loads((tmp_path / "compression.json").read_text())
    rows = {row["variant"]: row for row in document["variants"]}
    assert list(rows) == [FULL, *names]
    assert rows[FULL]["loss"] == pytest.approx(loss(trained["train"] / "servable", tiny_base), abs=5e-3)
    assert abs(rows["w8a16"]["loss_added"]["mean"]) < 0.02 and abs(rows["nf4"]["loss_added"]["mean"]) < 0.05
    assert abs(rows["q8_0"]["loss_added"]["mean"]) < 0.02 and abs(rows["q4_1"]["loss_added"]["mean"]) < 0.1
    for row in rows.values():
        assert row["loss_added"]["low"] <= row["loss_added"]["mean"] <= row["loss_added"]["high"]
        assert row["loss_added"]["mean"] == pytest.approx(row["loss"] - rows[FULL]["loss"], abs=2e-4)
    assert min(rows.values(), key=lambda r: r["size_mib"])["variant"] == metrics["chosen"]
    assert loss(tmp_path / "servable", tiny_base) == pytest.approx(rows[metrics["chosen"]]["loss"], abs=1e-3)
    report = (tmp_path / "report.md").read_text()
    assert all(f"| {name} |" in report for name in rows) and "chosen" in report
    assert {p.name for p in tmp_path.iterdir()} == {"servable", "compression.json", "report.md", "compression.png"}


def test_an_interrupted_run_goes_on_with_what_it_has(
    trained: dict[str, Path], stubbed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Compress(variants=("w8a16", "pruned"), within=10.0, max_new_tokens=4)

    def breaks(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setitem(variants._MAKERS, "pruned", breaks)
        with pytest.raises(MemoryError):
            compress.run(config, **trained, out=tmp_path)
    made = tmp_path / "variants" / "w8a16" / "model.safetensors"
    before = made.stat().st_mtime_ns, len(stubbed)
    assert before[1] == 2
    linked = tmp_path / "kept"
    os.link(made, linked)
    (tmp_path / "servable").mkdir()  # killed while placing: the wrong files must not stay
    (tmp_path / "servable" / "stale.bin").write_text("x")
    compress.run(config, **trained, out=tmp_path)
    assert linked.stat().st_mtime_ns == before[0] and len(stubbed) == 3  # neither made nor measured again
    assert not (tmp_path / "servable" / "stale.bin").exists()


def rows(**added: tuple[float, float, float]) -> list[dict[str, Any]]:
    """Forms by size, speed and upper bound of the added loss."""
    return [
        {"variant": name, "size_mib": size, "tokens_per_second_batch": pace, "loss_added": {"high": high}}
        for name, (size, pace, high) in added.items()
    ]


def test_the_rule() -> None:
    found = rows(bf16=(260, 300, 0), nf4=(129, 96, 0.004), w8a16=(156, 350, 0.02), pruned=(110, 360, 0.5))
    assert choose_variant(found, Compress()) == "nf4"
    assert choose_variant(found, Compress(within=0.03)) == "nf4"
    assert choose_variant(found, Compress(within=0.6)) == "pruned"
    assert choose_variant(found, Compress(within=0.003)) == "bf16"
    assert choose_variant(found, Compress(prefer="fastest")) == "bf16"
    assert choose_variant(found, Compress(prefer="fastest", within=0.03)) == "w8a16"
    assert choose_variant(rows(bf16=(260, 300, 0)), Compress()) == "bf16"


def test_the_interval_follows_the_spread_of_the_differences() -> None:
    items = [example(n, "validation") for n in range(40)]
    references = [Tokens(item.id, [1] * 12, 2) for item in items]

    def added(*nats: float) -> dict[str, float]:
        found = {
            "bf16": Measured(2.0, QUIET, [5.0] * 40, [1.0] * 40, ["a"] * 40),
            "w8a16": Measured(1.0, QUIET, [5.0 + n for n in nats] * (40 // len(nats)), [0.5] * 40, ["a", "b"] * 20),
        }
        row = compare_variants(found, items, references, Compress())[1]
        assert row["token_f1_added"]["high"] == -0.5 and row["same_answers"] == 0.5
        return dict(row["loss_added"])

    assert added(0.1) == {"mean": 0.01, "low": 0.01, "high": 0.01}
    wide, narrow = added(1.0, 1.0, -1.0, -1.0), added(0.1, 0.1, -0.1, -0.1)  # a topic has two wordings
    assert wide["high"] > narrow["high"] > 0.001 and wide["low"] < narrow["low"] < -0.001
    assert added(1.0, -1.0) == {"mean": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("values", [{"variants": ["w8a16", "w8a16"]}, {"variants": ["int2"]}, {"prune": 1.0}])
def test_settings_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Compress(**values)


def test_pruning_leaves_out_the_neurons_that_do_least_and_shrinks_the_shapes(tiny_base: Path, tmp_path: Path) -> None:
    model, examples = load_model(tiny_base), tokens(tiny_base, "train")
    dead = {0: list(range(0, 64)), 1: list(range(32, 96))}  # 64 of 128 in every layer
    with torch.no_grad():
        for layer, which in dead.items():
            model.model.layers[layer].mlp.down_proj.weight[:, which] *= 1e-4
    before = mean_loss(model, examples)
    alive = model.model.layers[1].mlp.up_proj.weight.detach()[[n for n in range(128) if n not in dead[1]]]
    prune(model, examples, 0.5).save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.config.intermediate_size == 64
    assert torch.equal(again.model.layers[1].mlp.up_proj.weight, alive)
    assert mean_loss(again, examples) == pytest.approx(before, abs=5e-3)


def test_a_fused_gate_is_pruned_in_both_halves(tokenizer: Any, tmp_path: Path, tiny_base: Path) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model, examples = Phi3ForCausalLM(config).to(torch.bfloat16).eval(), tokens(tiny_base, "train")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, ::2] *= 1e-4
    before = mean_loss(model, examples)
    prune(model, examples, 0.5).save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert again.model.layers[0].mlp.gate_up_proj.weight.shape == (128, 64)
    assert mean_loss(again, examples) == pytest.approx(before, abs=5e-3)


def test_recovery_wins_back_what_pruning_lost(tiny_base: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    config = Compress(prune=0.75, recovery_epochs=6, recovery_learning_rate=5e-3)
    examples = tokens(tiny_base, "train")
    material = variants.Material(
        config, trained["train"] / "servable", str(tiny_base), trained["train"] / "adapter", examples
    )
    pruned, recovered = (variants.make(name, material, tmp_path) for name in ("pruned", "recovered"))
    assert [json.loads((f / "config.json").read_text())["intermediate_size"] for f in (pruned, recovered)] == [32, 32]
    before, after = (per_token(open_model(folder).nats(examples)) for folder in (pruned, recovered))
    assert after < before - 0.1


def test_a_model_without_gated_mlps_cannot_be_pruned_and_that_is_said() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=50))
    with pytest.raises(ConfigError, match="GPT2LMHeadModel"):
        prune(model, [Tokens("x", [1, 2, 3], 1)], 0.2)


def test_speed_is_measured_in_a_process_of_its_own(tiny_base: Path, tmp_path: Path) -> None:
    hog = bytearray(600 * 2**20)  # what this process holds is not the model's
    write_folder(tiny_base, tmp_path / "gguf", "q8_0")
    of_torch, found = (speed.measure(f, [[1, 2, 3], [4, 5]], 4, 8) for f in (tiny_base, tmp_path / "gguf"))
    for measured in (of_torch, found):
        assert len(hog) and measured.tokens_per_second_batch > measured.tokens_per_second_1 > 0
        assert 50 < measured.memory_mib < 1500
    assert found.memory_mib < of_torch.memory_mib  # there is no torch in the process
    shutil.copytree(tiny_base, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LlmopsError, match="broken"):
        speed.measure(tmp_path / "broken", [[1, 2, 3]], 2, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp8_without_a_gpu_says_what_it_needs(
    trained: dict[str, Path], stubbed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r"fp8.*8\.9"):
        compress.run(Compress(variants=("fp8",), max_new_tokens=4), **trained, out=tmp_path)


@pytest.mark.gpu
def test_fp8_on_a_gpu_is_near_the_full_model(
    trained: dict[str, Path], stubbed: list[Path], tiny_base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("kernels", reason="needs the package kernels")
    compress.run(Compress(variants=("fp8",), within=10.0, max_new_tokens=4), **trained, out=tmp_path)
    full, small = json.loads((tmp_path / "compression.json").read_text())["variants"]
    assert small["size_mib"] < full["size_mib"] and abs(small["loss_added"]["mean"]) < 0.1


def test_the_old_name_of_a_form_is_told_by_its_new_one() -> None:
    with pytest.raises(ValueError, match=r"int8 is now called w8a16.* q8_0"):
        Compress(variants=["int8"])  # type: ignore[arg-type]
