"""Training on a tiny model: packing is exact, the adapter alone trains, failures are loud, a kill loses nothing."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16

from llmops.config import Train
from llmops.errors import TrainingError
from llmops.features.tokenize import Tokens
from llmops.model.base.load import load_model, load_servable
from llmops.model.base.packing import answer_loss, mean_loss, pack
from llmops.model.training.checkpoints import COMPLETE, newest_checkpoint
from llmops.model.training.fit import fit
from llmops.model.training.qlora import Hyperparameters, trainable

FOUND = Hyperparameters(learning_rate=5e-3, rank=4, batch=4)
CONFIG = Train(epochs=2, checkpoint_steps=2)


def examples(count: int = 16) -> list[Tokens]:
    make = torch.Generator().manual_seed(3)
    lengths = torch.randint(8, 30, (count,), generator=make).tolist()
    rows = [torch.randint(20, 400, (n,), generator=make).tolist() for n in lengths]
    return [Tokens(str(i), row, len(row) // 2) for i, row in enumerate(rows)]


def test_packed_loss_equals_one_by_one(tiny_base: Path) -> None:
    model = load_model(tiny_base).float()
    packed = answer_loss(model, pack(examples(6)))
    alone = sum(answer_loss(model, pack([e])) for e in examples(6))
    assert float(packed) == pytest.approx(float(alone), rel=1e-5)
    full = 0.0
    for e in examples(6):  # the classic recipe: labels of -100 on the prompt, logits everywhere
        ids = torch.tensor([e.token_ids])
        labels = ids.clone()
        labels[0, : e.prompt_tokens] = -100
        full += float(model(input_ids=ids, labels=labels).loss) * (len(e.token_ids) - e.prompt_tokens)
    assert float(packed) == pytest.approx(full, rel=1e-5)


def test_packed_gradients_equal_one_by_one(tiny_base: Path) -> None:
    def gradients(batches: list[list[Tokens]]) -> torch.Tensor:
        model = load_model(tiny_base).float()
        for batch in batches:
            answer_loss(model, pack(batch)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradients([examples(5)]), gradients([[e] for e in examples(5)]), rtol=1e-3, atol=1e-5)


def test_all_masked_batch_is_an_error() -> None:
    with pytest.raises(TrainingError, match="masked"):
        pack([Tokens("x", [1, 2, 3], 3)])


def test_exactly_the_adapter_trains(tiny_base: Path) -> None:
    model = trainable(str(tiny_base), CONFIG, FOUND)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    layers = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    layers += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert names == {
        f"base_model.model.model.layers.{i}.{layer}.lora_{ab}.default.weight"
        for i in range(2) for layer in layers for ab in "AB"
    }  # fmt: skip
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if n in names)


def test_training_lowers_the_loss_and_is_reproducible(tiny_base: Path, tmp_path: Path) -> None:
    losses = []
    for run in ("a", "b"):
        model = trainable(str(tiny_base), CONFIG, FOUND)
        before = mean_loss(model, examples())
        history = fit(model, examples(), CONFIG, FOUND, tmp_path / run)
        assert mean_loss(model, examples()) < before
        assert [h["step"] for h in history] == [float(n) for n in range(1, 9)]
        losses.append([h["loss"] for h in history])
    assert losses[0] == losses[1]
    other = Train(epochs=2, seed=1)
    assert [
        h["loss"] for h in fit(trainable(str(tiny_base), other, FOUND), examples(), other, FOUND, tmp_path / "c")
    ] != losses[0]


def test_zero_gradient_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    model = trainable(str(tiny_base), CONFIG, FOUND)
    for parameter in [p for name, p in model.named_parameters() if "lora_B" in name][:10]:
        parameter.register_hook(torch.zeros_like)
    with pytest.raises(TrainingError, match="gradient norm of 10 of 14 adapters is zero"):
        fit(model, examples(), CONFIG, FOUND, tmp_path)


@pytest.mark.skipif(not has_avx512bf16(), reason="only on such a processor does bitsandbytes pack weights anew")
def test_weights_that_were_packed_for_answering_do_not_train_in_silence(tiny_base: Path, tmp_path: Path) -> None:
    model = trainable(str(tiny_base), CONFIG, FOUND)
    model.eval()
    with torch.no_grad():
        answer_loss(model, pack(examples(2)))
    model.train()
    with pytest.raises(TrainingError, match="gradient norm of 10 of 14 adapters is zero"):
        fit(model, examples(), CONFIG, FOUND, tmp_path)


def test_judging_saving_and_reusing_do_not_disturb_training(tiny_base: Path, tmp_path: Path) -> None:
    model = trainable(str(tiny_base), CONFIG, FOUND)
    before = mean_loss(model, examples())
    model.save_pretrained(tmp_path / "adapter")
    assert mean_loss(model, examples()) == before
    fit(model, examples(), CONFIG, FOUND, tmp_path / "once")
    once = mean_loss(model, examples())
    assert once < before
    fit(model, examples(), CONFIG, FOUND, tmp_path / "twice")
    assert mean_loss(model, examples()) < once


def test_a_model_with_dropout_is_judged_without_and_trains_on(tiny_base: Path, tmp_path: Path) -> None:
    config = Train(epochs=2, dropout=0.5)
    model = trainable(str(tiny_base), config, FOUND)
    modes = {name: module.training for name, module in model.named_modules()}
    fit(model, examples(), config, FOUND, tmp_path / "a")
    once = mean_loss(model, examples())
    assert mean_loss(model, examples()) == once
    assert {name: module.training for name, module in model.named_modules()} == modes
    fit(model, examples(), config, FOUND, tmp_path / "b")
    assert mean_loss(model, examples()) < once


def test_a_loss_that_is_no_number_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    model = trainable(str(tiny_base), CONFIG, FOUND)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(TrainingError, match="nan at step 1"):
        fit(model, examples(), CONFIG, FOUND, tmp_path)


def test_no_examples_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no training example"):
        fit(trainable(str(tiny_base), CONFIG, FOUND), [], CONFIG, FOUND, tmp_path)


def test_half_written_checkpoints_are_not_used(tmp_path: Path) -> None:
    for step, whole in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / COMPLETE).touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert newest_checkpoint(tmp_path / "none") is None


FIT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_training import CONFIG, FOUND, examples
from llmops.model.training.fit import fit
from llmops.model.training.qlora import trainable
out = Path(sys.argv[2])
history = fit(trainable(sys.argv[1], CONFIG, FOUND), examples(), CONFIG, FOUND, out)
(out / "history.json").write_text(json.dumps(history))
"""


def test_killed_training_goes_on_and_ends_the_same(tiny_base: Path, tmp_path: Path) -> None:
    whole = fit(trainable(str(tiny_base), CONFIG, FOUND), examples(), CONFIG, FOUND, tmp_path / "whole")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", FIT, str(tiny_base), str(out), str(Path(__file__).parent)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 120
    while not newest_checkpoint(out / "checkpoints"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (out / "history.json").exists():  # on a fast machine it may have finished before the signal
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    resumed = json.loads((out / "history.json").read_text())
    assert [h["step"] for h in resumed] == [h["step"] for h in whole]
    assert resumed[-1]["loss"] == pytest.approx(whole[-1]["loss"], abs=1e-3)


def test_generation_does_not_depend_on_the_batch(tiny_base: Path) -> None:
    from llmops.model.base.answering import TorchModel, answer

    model, tokenizer = load_servable(tiny_base)
    plain = TorchModel(model.float(), tokenizer)
    requests = [("Hi", ""), ("How long can I return it after I bought it?", "Returns policy"), ("Why?", "")]
    alone = [answer(plain, [r], 8)[0] for r in requests]
    assert answer(plain, requests, 8, batch=2) == alone


def test_examples_are_not_changed() -> None:
    rows: Any = examples(3)
    before = copy.deepcopy(rows)
    pack(rows)
    assert rows == before
