"""The parameters of a run: only the list, only within its limits, and each reaches the field that it names."""

from typing import Any

import pytest

from llmops.config import Config, load
from llmops.config.run_parameters import OverriddenField, RunParameters, build_schemas, split_overrides
from llmops.frame.errors import ConfigError

GOOD: dict[str, Any] = {
    "interval": "2026-01-31", "epochs": 2, "learning_rate": 1e-4, "rank": 4.0, "batch": 2, "seed": 7, "trials": 3.0,
    "base_model": "owner/model",
}  # fmt: skip


def test_each_parameter_reaches_its_field() -> None:
    interval, sections = split_overrides(GOOD)
    assert set(GOOD) == set(RunParameters.model_fields)
    config = load(overrides=sections, environ={})
    assert interval == "2026-01-31"
    assert (config.train.epochs, config.train.learning_rate, config.train.rank) == (2, 1e-4, 4)
    assert (config.train.batch, config.train.seed, config.tune.trials) == (2, 7, 3)
    assert config.select.model == "owner/model"
    assert all(type(value) is int for value in (sections["train"]["rank"], sections["tune"]["trials"]))  # JSON says 4.0
    assert split_overrides({}) == split_overrides(dict.fromkeys(GOOD)) == (None, {})


def test_too_few_trials_for_tpe_are_refused_with_what_a_run_can_do() -> None:
    with pytest.raises(ConfigError, match="raise it to ten or more, or set tune.search: random in the configuration"):
        load(overrides=split_overrides({"trials": 3})[1], environ={"LLMOPS_TUNE__SEARCH": "tpe"})


def test_no_parameter_sets_what_decides_or_where_things_are() -> None:
    marks = [
        mark
        for field in RunParameters.model_fields.values()
        for mark in field.metadata
        if isinstance(mark, OverriddenField)
    ]
    assert {mark.section for mark in marks} == {"train", "tune", "select"}
    assert all(mark.field in type(getattr(Config(), mark.section)).model_fields for mark in marks)


def test_another_base_model_does_not_get_the_configured_ones_revision() -> None:
    configured = {"LLMOPS_SELECT__MODEL": "a/b", "LLMOPS_SELECT__REVISION": '"' + "0" * 40 + '"'}
    assert load(overrides=split_overrides({"base_model": "c/d"})[1], environ=configured).select.revision == ""
    assert load(overrides=split_overrides({"epochs": 2})[1], environ=configured).select.revision == "0" * 40


@pytest.mark.parametrize(
    "given",
    [{"release": {"min_effect": 0}}, {"train.epochs": 5}, {"Epochs": 5}, {"epochs": 5, "govern": {"fail_on": "never"}}],
)
def test_another_name_is_refused_and_the_list_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        split_overrides(given)
    assert repr(list(given)[-1]) in str(caught.value) and all(name in str(caught.value) for name in GOOD)


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 0}, {"epochs": 1e9}, {"epochs": "5"}, {"epochs": True}, {"epochs": float("nan")}, {"rank": 1.5},
        {"interval": ""}, {"interval": "2026-02-31"}, {"interval": "2026-01-31T00:00"},
        {"base_model": "/tmp/model"}, {"base_model": "a/../b"}, {"base_model": "a/b\n"}, {"base_model": "../model"},
        {"base_model": "~/model"}, {"seed": -1}, {"trials": 10**6},
    ],
)  # fmt: skip
def test_a_value_out_of_its_limits_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        split_overrides(given)


def test_a_form_can_show_every_parameter() -> None:
    found = build_schemas(base_model=["a/b"])
    assert list(found) == list(RunParameters.model_fields)
    for schema in found.values():
        assert schema["description"] and schema["type"][0] == "null" and len(schema["type"]) == 2
        assert not {"anyOf", "$ref", "default"} & set(schema)
    assert found["base_model"]["enum"] == [None, "a/b"] and found["interval"]["format"] == "date"
    assert (found["rank"]["minimum"], found["rank"]["maximum"]) == (0, 1024)
