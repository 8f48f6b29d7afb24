"""The stage `tune`: what it writes, real trials with real checkpoints, broken off and gone on with."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmops.config import Train, Tune
from llmops.frame.errors import TrainingError
from llmops.model.training.qlora import Hyperparameters
from llmops.model.training.space import build_search_space
from llmops.model.tune import stage as tune
from llmops.model.tune.halving import Trial, TrialJob
from tests.model.samples import make_tokens

HALVING = Tune(search="tpe", trials=9, steps=8, halving=2, rung=2)
REAL = Tune(search="tpe", trials=6, steps=4, halving=2, rung=1, validation_items=4)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, base: str) -> Iterator[None]:
    """Examples without a feature store, and a tiny model as base."""
    splits = {"train": make_tokens(16, 1), "validation": make_tokens(8, 2)}
    monkeypatch.setattr(tune, "read_offline", lambda features, split: splits[split])
    monkeypatch.setattr(tune, "get_base_path", lambda select: base)
    tune.draw_examples.cache_clear()
    yield
    tune.draw_examples.cache_clear()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Number and steps of every job; its loss is how far the learning rate is from 1e-4, and falls with the steps."""
    done: list[tuple[int, int]] = []

    def attempt(job: TrialJob, folder: Path, **_: Any) -> Trial:
        done.append((job.trial.number, job.steps))
        assert folder.is_dir() == bool(job.trial.steps)  # the checkpoint it goes on from is still there
        folder.mkdir(parents=True, exist_ok=True)
        loss = abs(math.log10(job.trial.found.learning_rate) + 4) + 1 / job.steps
        losses = {**job.trial.losses, job.steps: loss}
        return replace(job.trial, losses=losses, nats=tuple([8 * loss] * 8), trained=job.steps)

    monkeypatch.setattr(tune, "attempt_job", attempt)
    return done


def run(config: Tune, out: Path, train: Train | None = None) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return tune.run(config, train=train or Train(), features=out, select=out, out=out)


def test_halving_stops_losers_and_writes_what_it_found(jobs: list[tuple[int, int]], tmp_path: Path) -> None:
    metrics = run(HALVING, tmp_path)
    assert jobs[:3] == [(0, 2), (0, 4), (0, 8)] and len({n for n, _ in jobs}) == 9
    assert len(jobs) == len(set(jobs)) < 27
    best, rows = (json.loads((tmp_path / name).read_text()) for name in ("best.json", "trials.json"))
    assert metrics["steps"] == sum(max(map(int, row["losses"])) for row in rows) < 72
    whole = [row for row in rows if "8" in row["losses"]]
    assert best == min(whole, key=lambda row: float(row["losses"]["8"]))["found"]
    assert {k: metrics[k] for k in best} == best and metrics["trials"] == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "report.md", "trials.json", "trials.png"]
    report = (tmp_path / "report.md").read_text()
    assert report.count("**best**") == 1 and report.count("| 0 |") == 1 and "(trials.png)" in report
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("config", "train"), [(Tune(trials=1), Train()), (Tune(), Train(learning_rate=1e-4, rank=8, batch=4))]
)
def test_one_candidate_is_not_trained(jobs: list[tuple[int, int]], tmp_path: Path, config: Tune, train: Train) -> None:
    found = run(config, tmp_path, train)
    assert jobs == [] and found["trials"] == found["steps"] == 0
    assert json.loads((tmp_path / "best.json").read_text())["rank"] == (train.rank or 16)
    assert "starting point" in (tmp_path / "report.md").read_text()


def test_a_broken_search_goes_on(jobs: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, through, attempt = run(HALVING, tmp_path / "whole"), list(jobs), tune.attempt_job
    for point in (0, 4, len(through) - 1):
        out = tmp_path / str(point)
        jobs.clear()

        def attempt_until(job: TrialJob, folder: Path, *, at: int = point, **rest: Any) -> Trial:
            if len(jobs) == at:
                raise KeyboardInterrupt
            return attempt(job, folder, **rest)

        monkeypatch.setattr(tune, "attempt_job", attempt_until)
        with pytest.raises(KeyboardInterrupt):
            run(HALVING, out)
        assert (out / "trials.json").exists() == (point > 0) and not (out / "best.json").exists()
        monkeypatch.setattr(tune, "attempt_job", attempt)
        assert run(HALVING, out) == expected and not (out / ".trials").exists()
        assert jobs == through  # nothing was trained twice
        names = ("best.json", "trials.json", "report.md", "trials.png")
        assert [(out / n).read_bytes() for n in names] == [(tmp_path / "whole" / n).read_bytes() for n in names]


def test_a_failed_trial_is_reported(
    jobs: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = tune.attempt_job

    def attempt_failing(job: TrialJob, folder: Path, **rest: Any) -> Trial:
        trial = attempt(job, folder, **rest)
        return trial if trial.number else replace(job.trial, error="The loss is nan | at step 1.")

    monkeypatch.setattr(tune, "attempt_job", attempt_failing)
    metrics = run(HALVING, tmp_path / "one")
    assert metrics["trials"] == 9 and "gain" not in metrics  # a start that failed is beaten by anything
    assert json.loads((tmp_path / "one" / "trials.json").read_text())[0]["error"]
    assert "failed: The loss is nan \\| at step 1." in (tmp_path / "one" / "report.md").read_text()


def test_trials_train_as_train_says_and_fail_if_all_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Train, int]] = []

    def record_settings(base: str, config: Train, found: Hyperparameters) -> Any:
        seen.append((config, found.batch))
        raise TrainingError("no model")

    monkeypatch.setattr(tune, "load_trainable_model", record_settings)
    train = Train(method="lora", target_modules=("q_proj",), dropout=0.2, alpha=3, batch=3)
    with pytest.raises(TrainingError, match=r"All 2 trials.*no model"):
        run(HALVING.model_copy(update={"seed": 7, "trials": 2}), tmp_path, train)
    assert seen == [(train.model_copy(update={"seed": 7}), 3)] * 2


def test_a_promoted_trial_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, base: str) -> None:
    """The loss after 2 + 2 steps is that after 4 in one go: weights, optimizer, schedule, data order and dropout."""
    settings = {"config": REAL, "train": Train(dropout=0.1), "features": tmp_path, "base": base}
    fresh = Trial(0, Hyperparameters(3e-2, 4, 2))
    whole = tune.attempt_job(TrialJob(fresh, 4), tmp_path / "whole", **settings)
    half = tune.attempt_job(TrialJob(fresh, 2), tmp_path / "parts", **settings)
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert half.losses[2] != whole.losses[4]
    # Killed after the checkpoint and before the loss was written down, it trains those steps again.
    assert tune.attempt_job(TrialJob(fresh, 2), tmp_path / "parts", **settings) == half
    assert tune.attempt_job(TrialJob(half, 4), tmp_path / "parts", **settings).losses[4] == pytest.approx(
        whole.losses[4], abs=1e-6
    )


def test_noise_decides_nothing(jobs: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses order the trials as ever, but the items disagree about who is better."""
    attempt = tune.attempt_job

    def attempt_noisy(job: TrialJob, folder: Path, **more: Any) -> Trial:
        done = attempt(job, folder, **more)
        noise = torch.randn(8, generator=torch.Generator().manual_seed(done.number)) * 9
        return replace(done, nats=tuple((torch.tensor(done.nats) + noise - noise.mean()).tolist()))

    clear, config = run(HALVING, tmp_path / "clear"), HALVING
    assert clear["beyond_noise"] and clear["learning_rate"] != pytest.approx(3.16e-4, rel=1e-2)
    monkeypatch.setattr(tune, "attempt_job", attempt_noisy)
    found = run(config, tmp_path / "noisy")
    assert not found["beyond_noise"] and found["gain"] > 0 > found["gain_low"]
    assert found["learning_rate"] == pytest.approx(3.16e-4, rel=1e-2) and found["best_loss"] == clear["best_loss"]
    assert "**the starting point is taken**" in (tmp_path / "noisy" / "report.md").read_text()
    assert "its point is taken" in (tmp_path / "clear" / "report.md").read_text()


SPACE: Any = {"epochs": ("choice", 1, 2), "dropout": ("choice", 0.3)}
EPOCHS = Tune(search="grid", trials=2, steps=0, halving=1, space=SPACE, validation_items=8)


def test_epochs_are_searched_by_whole_trainings(tmp_path: Path) -> None:
    metrics = run(EPOCHS, tmp_path, Train(learning_rate=1e-2, rank=2, batch=4))
    rows = json.loads((tmp_path / "trials.json").read_text())
    # 16 examples in batches of 4 are 4 steps an epoch
    assert sorted((r["found"]["epochs"], r["found"]["dropout"], r["trained"]) for r in rows) == [
        (1.0, 0.3, 4), (2.0, 0.3, 8)
    ]  # fmt: skip
    assert metrics["steps"] == 12 and len({r["losses"]["0"] for r in rows}) == 2
    best = json.loads((tmp_path / "best.json").read_text())
    assert {k: metrics[k] for k in best} == best and best["learning_rate"] == 1e-2
    report = (tmp_path / "report.md").read_text()
    assert "| trial | epochs | steps | loss | what became of it |" in report


def test_a_whole_training_goes_on_from_a_checkpoint(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = TrialJob(Trial(0, Hyperparameters(1e-2, 2, 4, epochs=1)), 0)
    train = Train(checkpoint_steps=1)
    settings: dict[str, Any] = {"config": EPOCHS, "train": train, "features": tmp_path, "base": base}
    whole = tune.attempt_job(job, tmp_path / "whole", **settings)
    with monkeypatch.context() as broken:
        broken.setattr(tune, "compute_answer_nats", lambda *_: 1 / 0)  # killed between training and judging
        with pytest.raises(ZeroDivisionError):
            tune.attempt_job(job, tmp_path / "killed", **settings)
    last = max((tmp_path / "killed" / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    began = last.stat().st_mtime_ns
    assert tune.attempt_job(job, tmp_path / "killed", **settings) == whole and last.stat().st_mtime_ns == began
    monkeypatch.setattr(tune, "compute_answer_nats", lambda *_: [(math.nan, 1)])
    done = tune.attempt_job(job, tmp_path / "killed", **settings)
    assert "nan" in done.error and done.losses == {}  # a trial that diverges is an error of its own


@pytest.mark.parametrize(
    ("losses", "search", "ended"),
    [
        ((0.5, 0.6, 0.7, 0.8), "random", True),
        ((0.5, 0.6, 0.7), "random", False),
        ((0.5, 0.6, 0.4, 0.7, 0.8), "random", False),
        ((0.5, 0.6, 0.4, 0.7, 0.8, 0.4), "random", True),
        ((0.5, 0.6, 0.7, 0.8), "grid", False),
        ((math.nan, math.nan, math.nan, math.nan), "random", False),
    ],
)
def test_a_search_ends_after_three_whole_trials_without_gain(
    losses: tuple[float, ...], search: Any, ended: bool
) -> None:
    space = {"learning_rate": ("choice", *(n * 1e-5 for n in range(1, 10)))}
    config = Tune(search=search, trials=9, steps=0, halving=1, space=space)
    points = build_search_space(config, Train())
    trials = [
        Trial(n, Hyperparameters((n + 1) * 1e-5, rank=8, batch=4), {0: loss}, error="nan" * math.isnan(loss))
        for n, loss in enumerate(losses)
    ]
    assert (tune.choose_jobs(config, points, trials) == []) == ended
