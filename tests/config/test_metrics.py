"""What the gate may be asked for is what the task measures of an answer, and is known before anything runs."""

from typing import Any, get_args

import pytest

from llmops.config import load
from llmops.config.model import LOWER_IS_BETTER, TaskName, list_item_metrics
from llmops.frame.errors import ConfigError
from llmops.model.scoring.tasks import TASKS


@pytest.mark.parametrize("task", get_args(TaskName))
def test_the_list_is_what_is_measured(task: TaskName) -> None:
    columns, _ = TASKS[task].score(["a b", "c"], ["a", "c"], 2)
    assert set(columns) == set(list_item_metrics(task, 2))
    assert TASKS[task].primary in columns and TASKS[task].primary not in LOWER_IS_BETTER


@pytest.mark.parametrize("task", get_args(TaskName))
def test_the_gate_decides_on_a_metric_of_the_task_unless_told_otherwise(task: TaskName) -> None:
    release = load(overrides={"evaluate": {"task": task}}, environ={}).release
    assert {release.primary, *release.guardrails, *release.floors} <= set(list_item_metrics(task, 2))


@pytest.mark.parametrize(
    ("task", "release", "message"),
    [
        ("classification", {"primary": "token_f1"}, "release.primary names 'token_f1'"),
        ("classification", {"guardrails": {"rouge_l": 0.1}}, "release.guardrails names 'rouge_l'"),
        ("qa", {"primary": "hamming_loss"}, "there are token_f1, exact_match"),
        ("qa", {"guardrails": {"perplexity": 1.0}}, "'perplexity'"),
        ("qa", {"primary": "reading_ease"}, "describes"),
        ("multilabel", {"primary": "precision_at_5", "guardrails": {}, "floors": {}}, "precision_at_3"),
    ],
)
def test_a_metric_that_the_task_does_not_have_is_refused(task: str, release: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(overrides={"evaluate": {"task": task}, "release": release}, environ={})
    assert "sources" not in str(caught.value)  # not the whole configuration
