"""The stage as the pipeline runs it, and `llmops models push`: a finished push is no proof that it still holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmops.cli import main
from llmops.config import Config
from llmops.frame import artifacts
from llmops.frame.errors import LlmopsError
from llmops.pipeline import pipeline

from .conftest import commit_artifact


@pytest.fixture
def config(write_version: Any, hub: Any, tmp_path: Path) -> Config:
    """v1 promoted; a release and its deployment are finished."""
    write_version(1, "promoted")
    return Config(home=tmp_path, release={"name": "bot"}, push_to_hub={"repo": "me/bot"})


@pytest.fixture
def inputs(config: Config) -> dict[str, Path]:
    release, deploy = config.artifacts / "release" / "r1", config.artifacts / "deploy" / "d1"
    for folder in (release, deploy):
        folder.mkdir(parents=True)
    artifacts.write_json(release / "decision.json", {"registry": "/where/it/was", "model": "bot"})
    artifacts.write_json(deploy / "deployment.json", {"state": "served"})
    return {
        "release": commit_artifact(release, {}, {}, {}),
        "deploy": commit_artifact(deploy, {"release": "release/r1"}, {}, {}),
    }


def run(config: Config, inputs: dict[str, Path]) -> dict[str, Any]:
    path = pipeline.run_stage("push_to_hub", config, "2026-01-31", inputs)
    document: dict[str, Any] = json.loads((path / "push.json").read_text())
    return document


def test_a_push_that_holds_is_skipped(config: Config, inputs: dict[str, Path], write_version: Any, hub: Any) -> None:
    first = run(config, inputs)
    assert (first["state"], first["main"], first["pushed"]) == ("pushed", "v1", ["main", "v1"])
    path = pipeline.plan_stage("push_to_hub", config, "2026-01-31", inputs).path
    written = (path / "record.json").read_bytes()
    assert run(config, inputs) == first and (path / "record.json").read_bytes() == written
    write_version(2, "promoted")
    assert run(config, inputs)["main"] == "v2"
    write_version.registry.rollback()
    assert run(config, inputs)["main"] == "v1"
    write_version.registry.rollback()
    assert run(config, inputs)["main"] == "v2"
    hub.repos.clear()  # somebody deleted the repository
    assert run(config, inputs)["main"] == "v2"
    assert not [p for p in config.home.rglob("*") if p.is_file() and b"x1x1" in p.read_bytes()]  # the token


def test_without_a_repository_nothing_is_asked_and_without_a_token_it_fails(
    config: Config, inputs: dict[str, Path], hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(LlmopsError, match="HF_TOKEN"):
        run(config, inputs)
    none = config.model_copy(update={"push_to_hub": config.push_to_hub.model_copy(update={"repo": ""})})
    assert run(none, inputs) == run(none, inputs) == {"state": "no repository"}
    assert hub.asked == []


def test_the_command_line_pushes_checks_and_says_that_the_hub_does_not_follow(
    config: Config, write_version: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    settings = {"HOME": str(config.home), "RELEASE__NAME": "bot", "PUSH_TO_HUB__REPO": "me/bot"}
    for name, value in settings.items():
        monkeypatch.setenv(f"LLMOPS_{name}", value)

    def llmops(*words: str) -> tuple[int, str, str]:
        status = main(["models", *words])
        return status, *capsys.readouterr()

    status, out, _ = llmops("push", "--check")
    assert status == 1 and "no model" in out and "behind: main, v1" in out
    status, out, _ = llmops("push", "--json")
    assert status == 0 and json.loads(out)["main"] == "v1"
    assert llmops("push", "--check")[0] == 0
    write_version(2, "promoted")
    status, _, err = llmops("rollback")
    assert status == 0 and "me/bot" in err and "models push" in err
    assert "models push" in llmops("promote", "v2")[2]
    status, out, _ = llmops("push")
    assert status == 0 and "main of me/bot: v2; champion: v2" in out
    assert llmops("push", "v1")[0] == 1 and llmops("list", "--check")[0] == 1
    llmops("rollback")
    llmops("push")
