"""Configuration: precedence, clear errors, and what does not change a fingerprint."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Config, load
from llmops.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_precedence_file_then_environment_then_run(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {seed: 1, epochs: 1, rank: 1}")
    environ = {"LLMOPS_TRAIN__EPOCHS": "2", "LLMOPS_TRAIN__RANK": "2"}
    config = load(path, {"train": {"rank": 3}}, environ)
    assert (config.train.seed, config.train.epochs, config.train.rank) == (1, 2, 3)


def test_locations_start_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "collect: {root: data}")
    assert load(path, environ={}).collect.root == (tmp_path / "data").resolve()


def test_home_moves_the_registry(tmp_path: Path) -> None:
    assert load(environ={"LLMOPS_HOME": str(tmp_path)}).release.registry == tmp_path / "registry"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {lerning_rate: 1}", "train.lerning_rate"),
        ("trian: {}", "trian"),
        ("train: {rank: many}", "many"),
        ("tune: {learning_rate: [1, 0.1]}", "learning_rate"),
        ("collect: {sources: [{name: a, kind: csv, location: x, fields: {title: t}}]}", "title"),
        ("[1, 2]", "list"),
        ("a: [", "YAML"),
        ("release: {min_effect: .inf}", "release.min_effect"),
        ("release: {floors: {token_f1: .nan}}", "release.floors.token_f1"),
        ("release: {guardrails: {rouge_l: .inf}}", "release.guardrails.rouge_l"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, text), environ={})


def test_a_source_that_is_left_out_of_the_index_is_one() -> None:
    sources = [{"name": name, "kind": "csv", "location": "x.csv"} for name in ("help", "customers")]
    for names in (["customer"], ["customers", "Help"]):
        with pytest.raises(ConfigError, match=rf"index.leave_out names '{names[-1]}'.*there are help, customers"):
            load(overrides={"collect": {"sources": sources}, "index": {"leave_out": names}}, environ={})
    known = {"collect": {"sources": sources}, "index": {"leave_out": ["customers"]}}
    assert load(overrides=known, environ={}).index.leave_out == ("customers",)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml", environ={})


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_home_that_cannot_be_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"home: .*{tmp_path / 'file'} is no folder"):
        load(overrides={"home": str(tmp_path / "file" / below)}, environ={})


def test_unknown_section_in_the_environment() -> None:
    with pytest.raises(ConfigError, match="LLMOPS_TRIAN__SEED"):
        load(environ={"LLMOPS_TRIAN__SEED": "1"})


def test_it_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.seed = 3  # type: ignore[misc]


def test_where_and_how_fast_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    one = load(overrides={"home": str(tmp_path / "a"), "clean": {"master": "local[1]"}}, environ={})
    two = load(overrides={"home": str(tmp_path / "b"), "clean": {"master": "local[2]"}}, environ={})
    for section in ("collect", "clean", "release", "features", "train"):
        assert getattr(one, section).hashed() == getattr(two, section).hashed()
    assert "seed" in one.train.hashed()


def test_fp8_is_refused_where_its_package_is_missing(tmp_path: Path) -> None:
    """When the configuration is loaded, not after the training."""
    path = write(tmp_path, "compress: {variants: [nf4, fp8]}")
    with pytest.raises(ConfigError, match=r"compress.variants.*needs the package kernels.*pip install kernels"):
        load(path, environ={})
    assert load(write(tmp_path, "compress: {variants: [nf4]}"), environ={}).compress.variants == ("nf4",)


def test_fp8_is_let_in_where_its_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise ImportError('looked for, not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load(write(tmp_path, "compress: {variants: [fp8]}"), environ={}).compress.variants == ("fp8",)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "text",
    [
        "schedule: {late_hours: VALUE}", "schedule: {timeouts: {train: VALUE}}", "release: {floors: {token_f1: VALUE}}",
        "tune: {space: {dropout: [uniform, 0, VALUE]}}", "train: {max_grad_norm: VALUE}",
    ],
)  # fmt: skip
def test_a_number_that_is_not_finite_is_refused_by_its_key(tmp_path: Path, text: str, value: str) -> None:
    with pytest.raises(ConfigError, match=text.split(":")[0]):
        load(write(tmp_path, text.replace("VALUE", value)), environ={})
