"""Training on a tiny model: packing is exact, the adapter alone trains, failures are loud, a kill loses nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.config import Train
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import TrainingError
from llmops.model.base.load import load_model
from llmops.model.base.packing import compute_answer_loss, compute_mean_loss, pack
from llmops.model.training.fit import COMPLETE_MARKER, PackedTrainer, find_newest_checkpoint, fit
from llmops.model.training.qlora import load_trainable_model
from tests.model.samples import HYPERPARAMETERS, make_tokens

CONFIG = Train(epochs=2, checkpoint_steps=2)


def test_packed_loss_is_that_of_the_classic_recipe(tiny_base: Path) -> None:
    """The recipe has labels of -100 on the prompt, and logits everywhere."""
    model, full = load_model(tiny_base).float(), 0.0
    for e in make_tokens(6):
        ids = torch.tensor([e.token_ids])
        labels = ids.clone()
        labels[0, : e.prompt_tokens] = -100
        full += float(model(input_ids=ids, labels=labels).loss) * (len(e.token_ids) - e.prompt_tokens)
    assert float(compute_answer_loss(model, pack(make_tokens(6)))) == pytest.approx(full, rel=1e-5)


def test_training_lowers_the_loss_and_is_reproducible(base: str, tmp_path: Path) -> None:
    def train_losses(name: str, config: Train = CONFIG) -> list[float]:
        model = load_trainable_model(base, config, HYPERPARAMETERS)
        before = compute_mean_loss(model, make_tokens(16))
        history = fit(model, make_tokens(16), config, HYPERPARAMETERS, tmp_path / name)
        assert compute_mean_loss(model, make_tokens(16)) < before
        assert [h["step"] for h in history] == [float(n) for n in range(1, 9)]
        return [h["loss"] for h in history]

    assert train_losses("a") == train_losses("b") != train_losses("c", Train(epochs=2, seed=1))


@pytest.mark.parametrize(
    ("config", "step"),
    [  # 16 examples, 4 a step, 2 epochs: checkpoints fall within and between epochs
        (Train(epochs=2, checkpoint_steps=2), 6),
        (Train(epochs=2, checkpoint_steps=3, dropout=0.2), 6),
        (Train(epochs=2, checkpoint_steps=2, micro_batch=2, validate_steps=1, patience=9), 8),
    ],
    ids=["plain", "dropout", "best adapter"],
)
def test_broken_off_it_goes_on_from_the_checkpoint_and_ends_the_same(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Train, step: int
) -> None:
    steps: list[int] = []
    compute, save = PackedTrainer.training_step, torch.save

    def train(out: Path) -> tuple[list[Any], dict[str, torch.Tensor]]:
        steps.clear()
        model = load_trainable_model(base, config, HYPERPARAMETERS)
        history = fit(model, make_tokens(16), config, HYPERPARAMETERS, out, held_out=make_tokens(6, 4))
        weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        return [{k: v for k, v in row.items() if k != "seconds"} for row in history], weights

    def count_step(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        steps.append(self.state.global_step + 1)
        loss: torch.Tensor = compute(self, *args, **kwargs)
        return loss

    def save_half(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if breaking and f"checkpoint-{step}/" in str(path):
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(value, path, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "training_step", count_step)
    monkeypatch.setattr(torch, "save", save_half)
    breaking = False
    whole, weights = train(tmp_path / "whole")
    breaking = True
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken")
    breaking = False
    resumed, others = train(tmp_path / "broken")
    assert resumed == whole and all(torch.equal(others[name], weights[name]) for name in weights)
    assert min(steps) == (step - 1) // config.checkpoint_steps * config.checkpoint_steps + 1


def test_zero_gradient_is_an_error(base: str, tmp_path: Path) -> None:
    """What bitsandbytes does on a CPU after a forward pass in evaluation mode, and what we do about it."""
    model = load_trainable_model(base, CONFIG, HYPERPARAMETERS)
    model.eval()
    with torch.no_grad():
        compute_answer_loss(model, pack(make_tokens(2)))
    model.train()
    with pytest.raises(TrainingError, match="gradient norm of 10 of 14 adapters is zero"):
        fit(model, make_tokens(16), CONFIG, HYPERPARAMETERS, tmp_path)


def test_judging_and_saving_do_not_disturb_training(base: str, tmp_path: Path) -> None:
    """Nor does dropout, without which a model is judged."""
    config = Train(epochs=2, dropout=0.5)
    model = load_trainable_model(base, config, HYPERPARAMETERS)
    modes = {name: module.training for name, module in model.named_modules()}
    before = compute_mean_loss(model, make_tokens(16))
    model.save_pretrained(tmp_path / "adapter")
    assert compute_mean_loss(model, make_tokens(16)) == before
    fit(model, make_tokens(16), config, HYPERPARAMETERS, tmp_path / "once")
    assert compute_mean_loss(model, make_tokens(16)) == compute_mean_loss(model, make_tokens(16)) < before
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_what_cannot_be_trained_on_is_an_error(base: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="masked"):
        pack([Tokens("x", [1, 2, 3], 3)])
    model = load_trainable_model(base, CONFIG, HYPERPARAMETERS)
    with pytest.raises(TrainingError, match="long has 600 tokens.*512"):
        fit(model, [*make_tokens(3), Tokens("long", [50] * 600, 2)], CONFIG, HYPERPARAMETERS, tmp_path)
    with pytest.raises(TrainingError, match="no training example"):
        fit(model, [], CONFIG, HYPERPARAMETERS, tmp_path)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(TrainingError, match="nan at step 1"):
        fit(model, make_tokens(16), CONFIG, HYPERPARAMETERS, tmp_path)


def test_training_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path: Path) -> None:
    for step, whole in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / COMPLETE_MARKER).touch()
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert find_newest_checkpoint(tmp_path / "none") is None


def test_generation_does_not_depend_on_the_batch(tiny_base: Path) -> None:
    from llmops.model.base.inference import answer_questions, open_model

    model = open_model(tiny_base)
    model.model.float()
    requests = [("Hi", ""), ("How long can I return it after I bought it?", "Returns policy"), ("Why?", "")]
    assert answer_questions(model, requests, 8, batch=2) == [answer_questions(model, [r], 8)[0] for r in requests]
