"""`llmops plan`: every check fails for its reason and says what to do, and nothing is done."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, constants

from llmops import cli
from llmops.frame import doctor
from llmops.frame.doctor import Check
from llmops.model.base.shape import read_known_config
from tests.model.samples import make_encoder

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration whose sources and base model are there."""
    (tmp_path / "faq.csv").write_text("question,answer\nHow?,So.\n")
    source = {"name": "faq", "kind": "csv", "location": "faq.csv", "licence": "mit", "owner": "shop"}
    source |= {"fields": {"question": "question", "answer": "answer"}}
    ready = [Check("Java", True, "17"), Check("port 8000", True, "free")]
    monkeypatch.setattr(doctor, "check_machine", lambda config, need: ready)
    return {"home": str(tmp_path / "home"), "collect": {"sources": [source]}, "select": {"model": str(tiny_base)}}


def run_plan(settings: dict[str, Any], tmp_path: Path, capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(settings))
    status = cli.main(["plan", "--config", str(file), "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def list_failed(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: f"{check['detail']} → {check['remedy']}" for check in found["checks"] if not check["ok"]}


def test_a_tiny_model_passes_and_nothing_is_done(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    status, found = run_plan(settings, tmp_path, capsys)
    assert (status, list_failed(found)) == (0, {}) and found["ok"]
    assert not [check for check in found["checks"] if check["name"].startswith("hub")]  # none is configured
    assert set(found["stages"].values()) == {"to build"} and list(found["stages"])[0] == "collect"
    assert {row["stage"] for row in found["memory"]} >= {"select", "tune", "train", "merge", "compress", "evaluate"}
    assert all(0 < row["needed"] < row["there"] for row in found["memory"])
    home = tmp_path / "home"
    assert not [path for path in home.rglob("*") if path.is_file()]  # no database, and no lock of one
    assert cli.main(["plan", "--config", str(tmp_path / "config.yaml")]) == 0
    text = capsys.readouterr().out
    assert "to build: collect, clean" in text and "GiB needed, RAM" in text and "ok    tokenizer" in text


def test_the_encoder_that_will_be_trained_is_named(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    encoder = make_encoder(tmp_path / "encoder")
    settings |= {"evaluate": {"task": "classification"}, "select": {"encoders": [str(encoder)]}}
    status, found = run_plan(settings, tmp_path, capsys)
    (check,) = [check for check in found["checks"] if check["name"] == "encoder"]
    assert (status, list_failed(found)) == (0, {}) and check["detail"].startswith(f"{encoder}, trained with a head")
    assert not [check for check in found["checks"] if check["name"] in ("base model", "tokenizer")]
    settings["select"]["encoders"].append("org/far-away")
    _, found = run_plan(settings, tmp_path, capsys)
    assert "org/far-away is no folder" in list_failed(found)["encoder"]
    settings["select"]["offline"] = False
    _, found = run_plan(settings, tmp_path, capsys)
    details = {check["name"]: check["detail"] for check in found["checks"]}
    assert "one of 2: select trains the smallest" in details["encoder"] and not details.get("base model")
    assert "hub: download" in list_failed(found)  # nobody is asked about it offline, and nothing is downloaded


def test_the_shape_of_8_billion_without_weights(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """A folder with a configuration and a tokenizer: on a card of 24 GiB it fits, on one of 16 it does not."""
    folder = tmp_path / "llama"
    shutil.copytree(settings["select"]["model"], folder)
    (folder / "model.safetensors").unlink()
    config = read_known_config(LLAMA)
    assert config is not None
    config.save_pretrained(folder)
    settings["select"]["model"] = str(folder)
    _, found = run_plan(settings, tmp_path, capsys, "--gpu", "24")
    assert not [name for name in list_failed(found) if name.startswith("memory")]
    assert "8,030,261,248 parameters" in next(c["detail"] for c in found["checks"] if c["name"] == "base model")
    status, found = run_plan(settings, tmp_path, capsys, "--gpu", "16")
    short = {name: why for name, why in list_failed(found).items() if name.startswith("memory")}
    assert status == 1 and {"memory: merge", "memory: evaluate", "memory: serve"} <= set(short)
    assert "memory: train" not in short and "smaller model" in short["memory: merge"]


def test_a_model_of_the_catalogue_that_is_not_here(settings: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    settings["select"] = {"model": LLAMA}
    status, found = run_plan(settings, tmp_path, capsys, "--gpu", "24")
    why = list_failed(found)
    assert status == 1 and "licence llama3" in why["base model"]
    assert "hub: download" in why["tokenizer"] and "select.offline: false" in why["hub: download"]
    assert found["memory"] and all(row["ok"] for row in found["memory"] if row["kind"] == "GPU")


@pytest.mark.parametrize(
    ("section", "change", "check", "why"),
    [
        ("select", {"licences": ["none"]}, "base model", "licence"),
        ("select", {"model": "FOLDER"}, "base model", "no model folder"),
        ("tune", {"search": "grid", "trials": 2, "space": {"rank": ["choice", 4, 8, 16]}}, "tune", "tune.trials"),
        ("collect", {"sources": [{"name": "faq", "kind": "csv", "location": "nowhere.csv"}]}, "sources", "nowhere.csv"),
        ("collect", {"sources": []}, "sources", "there is none"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    settings: dict[str, Any], tmp_path: Path, capsys: Any, section: str, change: dict[str, Any], check: str, why: str
) -> None:
    settings[section] = {key: str(tmp_path) if value == "FOLDER" else value for key, value in change.items()}
    status, found = run_plan(settings, tmp_path, capsys)
    assert status == 1 and why in list_failed(found)[check]


def test_what_the_machine_lacks_is_named(
    settings: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/artifacts").touch()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40 - 2**20, 2**20))
    monkeypatch.setattr(doctor, "check_machine", lambda config, need: [Check("Java", False, "not found", "install it")])
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as listens:
        closed.bind(("127.0.0.1", 0))
        settings["clean"] = {"master": f"spark://127.0.0.1:{closed.getsockname()[1]}"}
        settings["tune"] = {"spark": f"spark://127.0.0.1:{listens.getsockname()[1]}", "halving": 1}
        status, found = run_plan(settings, tmp_path, capsys)
    why = list_failed(found)
    assert status == 1 and set(why) == {"disk", "home", "Java", "clean.master", "clean.work"}
    assert "0.0 free" in why["disk"] and f"{tmp_path / 'home/artifacts'} is no folder" in why["home"]
    assert "refused" in why["clean.master"] and "no place is named" in why["clean.work"]


# --- the Hub


@pytest.mark.parametrize(("token", "good"), [("hf_right\r\n", True), ("hf_wrong", False), ("", False)])
def test_the_hub_takes_the_token_or_says_no(
    settings: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, token: str, good: bool
) -> None:
    def whoami(hub: HfApi) -> dict[str, str]:
        if hub.token != "hf_right":
            raise ValueError(f"Invalid credentials {hub.token}")
        return {"name": "shop", "type": "user"}

    monkeypatch.setattr(HfApi, "whoami", whoami)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.test")
    monkeypatch.setenv("HF_TOKEN", token)
    settings["push_to_hub"] = {"repo": "shop/bot"}
    status, found = run_plan(settings, tmp_path, capsys)
    assert (status, set(list_failed(found))) == ((0, set()) if good else (1, {"hub: push"}))
    (check,) = [check for check in found["checks"] if check["name"] == "hub: push"]
    assert "HF_TOKEN" in check["remedy"] or ("as shop" in check["detail"] and "https://hub.test" in check["detail"])
    assert not token or token.strip() not in json.dumps(found)


def test_a_hub_that_does_not_answer(
    settings: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    settings["push_to_hub"] = {"repo": "shop/bot"}
    settings["select"] = {"model": LLAMA, "licences": ["llama3"], "offline": False}
    status, found = run_plan(settings, tmp_path, capsys, "--gpu", "24")
    assert status == 1 and {"hub: push", "hub: download", "tokenizer"} <= set(list_failed(found))
