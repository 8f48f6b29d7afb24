"""The search: it starts well, stays within its bounds, and goes on after a kill with the trials it has."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from hyperopt import STATUS_OK

from llmops.config import Tune
from llmops.features.tokenize import Tokens
from llmops.model import tune

EXAMPLES = [Tokens(str(i), [21 + i, 40, 50, 60 + i], 2) for i in range(4)]


class Killed(BaseException):
    """What ends a search from outside."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> list[dict[str, Any]]:
    """The values of every trial; its loss is how far the learning rate is from 1e-4."""
    made: list[dict[str, Any]] = []

    def judge(values: dict[str, Any], **_: Any) -> dict[str, Any]:
        made.append(values)
        return {"loss": abs(math.log10(values["learning_rate"]) + 4), "status": STATUS_OK}

    monkeypatch.setattr(tune, "try_out", judge)
    monkeypatch.setattr(tune, "read_offline", lambda features, split: EXAMPLES)
    monkeypatch.setattr(tune, "base_path", lambda select: str(tiny_base))
    return made


def search(config: Tune, out: Path) -> dict[str, Any]:
    return tune.run(config, features=out, select=out, out=out)


def test_starts_at_the_starting_point_and_stays_within_bounds(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    config = Tune(trials=12)
    found = search(config, tmp_path)
    assert calls[0] == pytest.approx(tune.start(config))
    assert all(1e-5 <= c["learning_rate"] <= 1e-3 for c in calls)
    assert {c["rank"] for c in calls} <= {8, 16}
    best = json.loads((tmp_path / "best.json").read_text())
    rows = json.loads((tmp_path / "trials.json").read_text())
    assert best["learning_rate"] == min(rows, key=lambda r: r["loss"])["learning_rate"] == found["learning_rate"]
    assert len(rows) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.json", "trials.json"]


def test_without_trials_the_starting_point_is_used(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    assert search(Tune(trials=0), tmp_path)["rank"] == 16
    assert calls == []


def test_a_killed_search_goes_on_and_finds_the_same(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = search(Tune(trials=9), whole)
    through = list(calls)
    calls.clear()
    judge = tune.try_out

    def die(values: dict[str, Any], **rest: Any) -> dict[str, Any]:
        if len(calls) == 4:
            raise Killed
        return judge(values, **rest)

    out = tmp_path / "killed"
    out.mkdir()
    monkeypatch.setattr(tune, "try_out", die)
    with pytest.raises(Killed):
        search(Tune(trials=9), out)
    assert len(pickle.loads((out / tune.TRIALS).read_bytes()).trials) == 4
    monkeypatch.setattr(tune, "try_out", judge)
    found = search(Tune(trials=9), out)
    assert len(json.loads((out / "trials.json").read_text())) == 9
    assert calls == through  # no finished trial is run again, and the others are those that would have been
    assert found == expected


def test_one_real_trial(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "read_offline", lambda features, split: EXAMPLES)
    monkeypatch.setattr(tune, "base_path", lambda select: str(tiny_base))
    found = search(Tune(trials=1, steps=1, rank=(2,), batch=(2,)), tmp_path)
    assert math.isfinite(found["best_loss"]) and found["rank"] == 2
