"""Configuration: precedence, clear errors, and what does not change a fingerprint."""

from pathlib import Path

import pytest

from llmops.config import load
from llmops.frame.errors import ConfigError
from llmops.frame.variables import fill_variables


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_precedence_file_then_environment_then_run(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {seed: 1, epochs: 1, rank: 1}")
    environ = {"LLMOPS_TRAIN__EPOCHS": "2", "LLMOPS_TRAIN__RANK": "2"}
    config = load(path, {"train": {"rank": 3}}, environ)
    assert (config.train.seed, config.train.epochs, config.train.rank) == (1, 2, 3)
    with pytest.raises(ValueError, match="frozen"):
        config.train.seed = 3  # type: ignore[misc]
    with pytest.raises(ConfigError, match="LLMOPS_TRIAN__SEED"):
        load(path, environ={"LLMOPS_TRIAN__SEED": "1"})
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml", environ={})


def test_places_start_from_the_file_and_from_the_home(tmp_path: Path) -> None:
    config = load(write(tmp_path, "collect: {root: data}"), environ={"LLMOPS_HOME": str(tmp_path / "home")})
    assert config.collect.root == (tmp_path / "data").resolve()
    assert config.release.registry == tmp_path / "home" / "registry"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {lerning_rate: 1}", "there is no key train.lerning_rate"),
        ("train: {rank: many}", "many"),
        ("tune: {learning_rate: [1, 0.1]}", "learning_rate"),
        ("collect: {sources: [{name: a, kind: csv, location: x, fields: {title: t}}]}", "title"),
        ("[1, 2]", "list"),
        ("a: [", "YAML"),
        ("release: {floors: {token_f1: .nan}}", "release.floors.token_f1"),
        ("schedule: {timeouts: {train: .nan}}", "schedule.timeouts"),
        ("release: {guardrails: {rouge_l: -0.1}}", "guardrails"),
        ("train: {max_grad_norm: .inf}", "train.max_grad_norm"),
        ("annotate: {out_of_scope: oos}", "annotate.out_of_scope chooses the threshold"),
        ("compress: {max_refused: 1}", "compress.max_refused"),
        ("serving: {classify_threshold: 2}", "serving.classify_threshold"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(write(tmp_path, text), environ={})


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_home_that_cannot_be_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"home: .*{tmp_path / 'file'} is no folder"):
        load(overrides={"home": str(tmp_path / "file" / below)}, environ={})


def test_where_and_how_fast_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    one = load(overrides={"home": str(tmp_path / "a"), "clean": {"master": "local[1]"}}, environ={})
    two = load(overrides={"home": str(tmp_path / "b"), "clean": {"master": "local[2]"}}, environ={})
    for section in ("collect", "clean", "release", "features", "train"):
        assert getattr(one, section).get_hashed_values() == getattr(two, section).get_hashed_values()
    assert "seed" in one.train.get_hashed_values()


def test_encoders_have_defaults_of_their_own_that_a_file_overrides(tmp_path: Path) -> None:
    given = {
        "home": str(tmp_path), "evaluate": {"task": "classification"}, "select": {"encoders": ["all-MiniLM-L6-v2"]},
        "tune": {"trials": 2},
    }  # fmt: skip
    made = load(overrides=given, environ={})
    assert (made.train.method, made.index.enabled, made.tune.steps, made.tune.trials) == ("full", False, 0, 2)
    assert (made.release.primary, made.release.min_effect) == ("accuracy", 0)
    assert set(made.tune.space) == {"learning_rate", "batch", "epochs"}
    adapter = load(overrides=given | {"train": {"method": "lora"}, "release": {"min_effect": 0.02}}, environ={})
    assert (adapter.train.method, adapter.release.min_effect, adapter.release.primary) == ("lora", 0.02, "accuracy")
    assert adapter.tune.space["learning_rate"] == ("loguniform", 2e-4, 2e-3)


def test_fp8_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the configuration is loaded, not after the training."""
    path = write(tmp_path, "compress: {variants: [nf4, fp8]}")
    with pytest.raises(ConfigError, match=r"compress.variants.*needs the package kernels.*pip install kernels"):
        load(path, environ={})
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise ImportError('looked for, not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load(path, environ={}).compress.variants == ("nf4", "fp8")


@pytest.mark.parametrize(
    ("url", "value", "becomes"),
    [
        ("redis://me:${X}@host/1", "a@b/c?", "redis://me:a%40b%2Fc%3F@host/1"),
        ("json://${X}/b?to=ops@example.com", "host/a", "json://host/a/b?to=ops@example.com"),  # an "@" of no password
        ("sqlite:///${X}/a@b.db", "/srv/shop", "sqlite:////srv/shop/a@b.db"),
        ("json://host/?a=b&+Key=Bearer ${X}&c=d", "k&y/+ #", "json://host/?a=b&+Key=Bearer k%26y%2F%2B%20%23&c=d"),
        ("https://host/a.csv?${X}", "v=1&sig=a%2Bb", "https://host/a.csv?v=1&sig=a%2Bb"),  # a whole query
        ("https://host/a.csv?v=1&${X}", "w=2&sig=a%2Bb", "https://host/a.csv?v=1&w=2&sig=a%2Bb"),
        ("${X}", "json://me:p%40ss@host/?a=b", "json://me:p%40ss@host/?a=b"),
    ],
)
def test_a_variable_in_a_url_is_quoted_as_a_password_or_a_parameter_only(url: str, value: str, becomes: str) -> None:
    assert fill_variables(url, {"X": value}.__getitem__) == becomes
