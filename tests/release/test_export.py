"""A version that is exported answers in other programs as it does here."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from llmops import prompts
from llmops.cli import main
from llmops.config import Config
from llmops.frame.errors import ArtifactError, RegistryError
from llmops.model.base.generate import generate
from llmops.model.base.load import load_model, load_tokenizer
from llmops.model.gguf.write import write_gguf_folder
from llmops.release.export import export, render_modelfile
from llmops.release.registry.registry import registry_of

QUESTION = "How can I contact you?"


@pytest.fixture
def home(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose v1 is served as a GGUF file."""
    train = tmp_path / "artifacts" / "train" / "t1"
    shutil.copytree(tiny_base, train / "servable")
    (train / "record.json").touch()
    write_gguf_folder(tiny_base, tmp_path / "servable", "f16")
    facts = dict.fromkeys(("licence", "interval", "run", "dataset", "base_model", "base_revision", "quantisation"), "x")
    facts |= {"status": "promoted", "compress": "c1", "compared_with": "base"}
    documents = {"lineage.json": json.dumps({"stages": [{"artifact": "train/t1"}]}), "README.md": "The card"}
    registry = registry_of(Config(home=tmp_path))
    registry.publish(facts, {"servable": tmp_path / "servable"}, lambda v: documents, by="gate", why="test")
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    return tmp_path


def test_llama_cpp_answers_with_the_exported_file_as_torch_does(home: Path, tiny_base: Path, tokenizer: Any) -> None:
    out = home / "out"
    assert main(["models", "export", "v1", "--to", "gguf", "--out", str(out)]) == 0
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(out / "model.gguf")
    parameters.n_ctx, parameters.n_predict, parameters.warmup = 512, 12, False
    text = (out / "Modelfile").read_text()
    before, after = text.partition('TEMPLATE """')[2].partition('"""')[0].split("{{ .Prompt }}")
    asked = {"prompt": f"{before}{QUESTION}{after}", "temperature": 0, "n_predict": 12, "repeat_penalty": 1}
    (choice,) = xllamacpp.Server(parameters).handle_completions(asked)["choices"]
    ids = prompts.encode_question(tokenizer, QUESTION)
    right = generate(load_model(tiny_base).float(), load_tokenizer(tiny_base), [ids], 12)[0]
    assert choice["text"] == tokenizer.decode(right)
    assert text.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<|im_end|>"' in text
    assert text.endswith('LICENSE """x"""\n') and (out / "README.md").read_text() == "The card"
    assert {path.name for path in out.iterdir()} == {"model.gguf", "Modelfile", "README.md"}


def test_another_form_is_made_of_the_merged_model(home: Path, tiny_base: Path, tmp_path: Path) -> None:
    assert main(["models", "export", "v1", "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    card = {"README.md": b"The card"}
    assert contents(tmp_path / "hf") == contents(tiny_base) | card
    served = home / "registry" / "support-bot" / "versions" / "v1" / "servable"
    assert main(["models", "export", "v1", "--to", "openvino", "--out", str(tmp_path / "openvino")]) == 0
    whole = contents(served) | card
    assert contents(tmp_path / "openvino") == whole and "tokenizer.json" in whole
    shutil.rmtree(served)
    shutil.copytree(tiny_base, served)
    assert main(["models", "export", "v1", "--to", "openvino", "--out", str(tmp_path / "merged")]) == 0
    assert contents(tmp_path / "merged") == whole


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["v1", "--to", "hf", "--out", "x"], "not whole at"),
        (["v1", "--to", "gguf", "--out", "."], "exists"),
        (["v1", "--to", "gguf"], "--out FOLDER"),
    ],
)
def test_what_cannot_be_exported_is_said(
    home: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "artifacts" / "train" / "t1" / "record.json").unlink()  # written last
    monkeypatch.chdir(home)
    assert main(["models", "export", *words]) == 1
    assert why in capsys.readouterr().err and not (home / "x").exists()


def test_a_version_with_erased_rows_or_without_a_run_of_train_is_not_exported(home: Path) -> None:
    version = registry_of(Config(home=home)).get("v1")
    with pytest.raises(RegistryError, match="receipt 7"):
        export(replace(version, erasures=({"receipt": 7},)), "gguf", home / "x", home / "artifacts")
    (version.path / "lineage.json").write_text('{"stages": []}')
    with pytest.raises(ArtifactError, match="no run of `train`"):
        export(version, "hf", home / "x", home / "artifacts")
    with pytest.raises(ArtifactError, match="Nothing was trained"):
        export(replace(version, dataset=""), "hf", home / "x", home / "artifacts")
    assert not (home / "x").exists()


def test_a_base_that_was_not_trained_is_exported_as_it_is_served(home: Path, tiny_base: Path) -> None:
    version = replace(registry_of(Config(home=home)).get("v1"), dataset="")
    (version.path / "lineage.json").write_text('{"stages": []}')
    shutil.rmtree(version.servable)
    shutil.copytree(tiny_base, version.servable)
    export(version, "hf", home / "x", home / "artifacts")
    assert contents(home / "x") == contents(tiny_base) | {"README.md": b"The card"}


def test_a_model_without_a_chat_template_is_asked_in_the_annotated_form(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    text = render_modelfile(tmp_path / "plain", "mit")
    assert 'TEMPLATE """[Question] {{ .Prompt }}\n[Answer]"""' in text and 'PARAMETER stop "####"' in text
