"""A version that is exported answers in the programs of others as it does here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import xllamacpp

from llmops import prompts
from llmops.cli import main
from llmops.model.base.answering import answer, open_model
from llmops.model.base.load import load_tokenizer
from llmops.model.gguf.pipeline import is_gguf
from llmops.model.gguf.write import write_folder
from llmops.push_to_hub.export import modelfile
from llmops.registry.registry import Registry
from llmops.state.database import database_at

QUESTION = "How can I contact you?"


@pytest.fixture
def home(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose champion is served as a GGUF file in 8 bits."""
    merged = tmp_path / "artifacts" / "train" / "t1" / "servable"
    shutil.copytree(tiny_base, merged)
    write_folder(merged, tmp_path / "servable", "q8_0")
    registry = Registry(tmp_path / "registry", "bot", database_at(f"sqlite:///{tmp_path}/state.db"))
    facts = dict.fromkeys(("licence", "interval", "run", "dataset", "base_model", "base_revision"), "x")
    facts |= {"status": "promoted", "quantisation": "q8_0", "compress": "c1", "compared_with": "base"}
    documents = {"lineage.json": json.dumps({"stages": [{"artifact": "train/t1"}]})}
    registry.publish(facts, {"servable": tmp_path / "servable"}, lambda v: documents, by="gate", why="test")
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setenv("LLMOPS_RELEASE__NAME", "bot")
    return tmp_path


def exported(home: Path, kind: str) -> Path:
    assert main(["models", "export", "champion", "--to", kind, str(home / kind)]) == 0
    return home / kind


def test_what_is_served_is_exported_with_a_modelfile(home: Path, tiny_base: Path) -> None:
    out = exported(home, "gguf")
    assert {path.name for path in out.iterdir()} == {"model.gguf", "Modelfile"}
    assert (out / "model.gguf").read_bytes() == (home / "servable" / "model.gguf").read_bytes()
    lines = (out / "Modelfile").read_text()
    assert lines.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<|im_end|>"' in lines
    template = lines.partition('TEMPLATE """')[2].partition('"""')[0].replace("{{ .Prompt }}", QUESTION)
    tokenizer = load_tokenizer(tiny_base)
    assert tokenizer(template)["input_ids"] == prompts.prompt_ids(tokenizer, QUESTION)


def test_the_merged_model_is_exported_for_transformers(home: Path, tiny_base: Path) -> None:
    out = exported(home, "hf")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in tiny_base.iterdir()}


def test_what_cannot_be_exported_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(home, "gguf")
    assert main(["models", "export", "champion", "--to", "gguf", str(home / "gguf")]) == 1
    assert "exists" in capsys.readouterr().err
    for words in (["champion"], ["--to", "gguf", "x"], ["champion", "--to", "onnx", "x"]):
        assert main(["models", "export", *words]) == 1
        assert "--to" in capsys.readouterr().err
    shutil.rmtree(home / "artifacts" / "train")
    assert main(["models", "export", "champion", "--to", "hf", str(home / "x")]) == 1
    assert "not at" in capsys.readouterr().err and not (home / "x").exists()


def test_a_model_without_a_chat_template_is_asked_in_the_annotated_form(tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = None
    shutil.copytree(tiny_base, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(tmp_path / "plain")
    lines = modelfile(tmp_path / "plain")
    assert 'TEMPLATE """[Question] {{ .Prompt }}\n[Answer]"""' in lines and 'PARAMETER stop "####"' in lines


def test_llama_cpp_answers_as_we_do(home: Path, tokenizer: Any) -> None:
    out = exported(home, "gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(out / "model.gguf")
    parameters.n_ctx, parameters.n_predict, parameters.warmup = 512, 12, False
    server = xllamacpp.Server(parameters)
    ids = prompts.prompt_ids(tokenizer, QUESTION)
    asked = {"prompt": ids, "temperature": 0, "n_predict": 12, "repeat_penalty": 1}
    (choice,) = server.handle_completions(asked)["choices"]
    assert is_gguf(out) and choice["text"].strip() == answer(open_model(home / "servable"), [(QUESTION, "")], 12)[0]
