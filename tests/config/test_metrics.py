"""What the gate may be asked for is what the task measures of an answer, and is known before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from llmops.config import load
from llmops.config.model import LOWER_IS_BETTER, TaskName, item_metrics
from llmops.errors import ConfigError
from llmops.model.evaluate.tasks import TASKS


@pytest.mark.parametrize("task", get_args(TaskName))
def test_the_list_is_what_is_measured(task: TaskName) -> None:
    columns, _ = TASKS[task].score(["a b", "c"], ["a", "c"], 2)
    assert set(columns) == set(item_metrics(task, 2))
    assert TASKS[task].primary in columns and TASKS[task].primary not in LOWER_IS_BETTER


@pytest.mark.parametrize(
    ("task", "release", "told"),
    [
        ("classification", {}, "release.primary names 'token_f1'"),
        ("classification", {"primary": "accuracy"}, "release.guardrails names 'rouge_l'"),
        ("qa", {"primary": "hamming_loss"}, "there are token_f1, exact_match"),
        ("qa", {"guardrails": {"perplexity": 1.0}}, "'perplexity'"),
        ("qa", {"primary": "reading_ease"}, "describes"),
        ("multilabel", {"primary": "precision_at_5", "guardrails": {}, "floors": {}}, "precision_at_3"),
    ],
)
def test_a_metric_that_the_task_does_not_have_is_refused(task: str, release: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load(overrides={"evaluate": {"task": task}, "release": release}, environ={})
    assert "sources" not in str(caught.value)  # not the whole configuration


def test_those_that_it_has_are_taken() -> None:
    for task, release in {
        "qa": {"primary": "exact_match", "guardrails": {"reading_ease": 5}},
        "classification": {"primary": "accuracy", "guardrails": {}, "floors": {"accuracy": 0.5}},
        "multilabel": {"primary": "hamming_loss", "guardrails": {"precision_at_3": 0.1}, "floors": {}},
    }.items():
        assert load(overrides={"evaluate": {"task": task}, "release": release}, environ={}).release.primary


def test_it_is_refused_from_a_file_and_the_environment_too(tmp_path: Path) -> None:
    (file := tmp_path / "config.yaml").write_text("release: {primary: accuracy}\n")
    with pytest.raises(ConfigError, match=r"config.yaml is wrong: release.primary names 'accuracy'"):
        load(file, environ={})
    with pytest.raises(ConfigError, match="accuracy"):
        load(environ={"LLMOPS_RELEASE__PRIMARY": "accuracy"})


def test_a_margin_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="guardrails"):
        load(overrides={"release": {"guardrails": {"rouge_l": -0.1}}}, environ={})
