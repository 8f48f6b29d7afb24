"""The code on a card, run as it stands: from the Hub, from the version's folder, and the adapter alone.

What it answers is what `llmops generate` answers, in every form that is served.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.cli import main
from llmops.config import Compress, PushToHub
from llmops.release import card
from llmops.release.push_to_hub import sync
from llmops.release.registry.registry import Registry
from llmops.state.database import database_at

QUESTION = "How can I contact you?"
FORMS = ["bf16", "nf4", "q8_0", "bf16 without a chat template"]
ROOT = Path(__file__).parents[3]
#: the part of a version that its card is made of
UNPUBLISHED: Any = SimpleNamespace(name="v1", quantisation="bf16", classifies=False)

#: Runs each [folder, code] of a list in a namespace of its own and prints what it has as `answer`.
RUNNER = """
import json, os, sys
for folder, code in json.load(open(sys.argv[1])):
    os.chdir(folder)
    names = {}
    exec(compile(code, folder, "exec"), names)
    print("ANSWER" + json.dumps(names["answer"]), flush=True)
"""


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def execute(work: list[tuple[Path, str]], folder: Path, **environ: str) -> list[str]:
    """The answer of each piece of code, run in its folder, in a process without anything of this one."""
    file = folder / "work.json"
    file.write_text(json.dumps([(str(path), code) for path, code in work]))
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT), **environ}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(file)], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line.removeprefix("ANSWER")) for line in done.stdout.splitlines() if line.startswith("ANSWER")]


def write_adapter(base: Path, out: Path) -> None:
    """An adapter in whose weights something stands, so that another base answers otherwise."""
    import torch
    from peft import LoraConfig, get_peft_model

    from llmops.model.base.load import load_model

    torch.manual_seed(1)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load_model(base), config).save_pretrained(out)


def publish(registry: Registry, form: str, full: Path, base: Path, adapter: Path, scratch: Path) -> Any:
    """A version in a form, with a card as `release` writes it."""
    from llmops.model.compress.variants import VariantInputs, make_variant

    servable = make_variant(form, VariantInputs(Compress(full="bf16"), full, str(base), adapter), scratch)
    champion = registry.champion()
    facts = dict.fromkeys(("licence", "interval", "run", "dataset"), "x") | {"base_model": "org/tiny"}
    facts |= {"status": "promoted", "quantisation": form, "compress": str(scratch), "base_revision": "main"}
    facts["compared_with"] = champion.name if champion else "base"
    known = lineage("org/tiny", "main")

    def documents(version: Any) -> dict[str, str]:
        chat, file = card.has_chat_template(servable), card.find_gguf_file(servable)
        section = card.render_loading(version, known, chat, file=file)
        return {"README.md": f"# bot\n\n## Intended use\n\n{section}", "lineage.json": json.dumps(known)}

    return registry.publish(facts, {"servable": servable, "adapter": adapter}, documents, by="gate", why="test")


def lineage(model: str, revision: str) -> dict[str, Any]:
    stages = [{"artifact": "train/t1", "config": {"method": "qlora"}}]
    return {"base_model": {"model": model, "revision": revision}, "stages": stages}


@pytest.fixture
def versions(tiny_base: Path, served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A version of each form, all of them on the Hub, and their base, too."""
    from llmops.model.base.load import load_tokenizer
    from llmops.model.training.merge import save_merged

    registry = Registry(tmp_path / "registry", "bot", database_at(f"sqlite:///{tmp_path}/state.db"))
    adapter = tmp_path / "adapter"
    write_adapter(tiny_base, adapter)
    found = {}
    for number, form in enumerate(FORMS):
        full = tmp_path / f"full-{number}"
        save_merged(str(tiny_base), adapter, "qlora", full)
        if "without" in form:
            tokenizer = load_tokenizer(tiny_base)
            tokenizer.chat_template = None
            (full / "chat_template.jinja").unlink()
            tokenizer.save_pretrained(full)
        scratch = tmp_path / f"variants-{number}"
        found[form] = publish(registry, form.split()[0], full, tiny_base, adapter, scratch)
        assert sync.push(registry, PushToHub(repo="me/bot"), tmp_path / "events", by="test")["equal"]
    served.answer("POST", "/api/repos/create", b'{"organization": "org", "name": "tiny"}')
    served.repos["org/tiny"].add("main", {p.name: p.read_bytes() for p in tiny_base.iterdir()})
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setenv("LLMOPS_RELEASE__NAME", "bot")
    yield found


@pytest.mark.journey
def test_what_stands_on_a_card_answers_as_the_version_does(
    versions: dict[str, Any], hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(tmp_path / "registry", "bot", database_at(f"sqlite:///{tmp_path}/state.db"))
    repo, elsewhere = hub.repos["me/bot"], tmp_path / "elsewhere"
    elsewhere.mkdir()
    for form in ("nf4", "bf16"):  # on `main`, one form after another
        registry.promote(versions[form].name)
        sync.push(registry, PushToHub(repo="me/bot"), tmp_path / "events", by="test")
    expected: list[str] = []
    pushed: list[tuple[Path, str]] = []
    here: list[tuple[Path, str]] = []
    for version in versions.values():
        assert main(["generate", QUESTION, "--version", version.name]) == 0
        expected.append(capsys.readouterr().out.strip())
        load, ask, _ = blocks(repo.files(version.name)["README.md"].decode())
        assert f'revision="{version.name}"' in load and QUESTION in ask
        pushed.append((elsewhere, load + ask))
        load, ask, _ = blocks((version.path / "README.md").read_text())
        here.append((version.path, load + ask))
    answers = dict(zip(versions, expected, strict=True))
    assert all(expected) and len(set(expected)) > 1

    load, ask, adapter = blocks(repo.files("main")["README.md"].decode())
    unpinned = (load + ask).replace(f', revision="{versions["bf16"].name}"', "")
    alone = adapter + ask
    others = [unpinned, alone, alone.replace(", quantization_config=quantisation", "")]
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_TOKEN": os.environ["HF_TOKEN"]}
    pushed += [(elsewhere, code) for code in others]
    *from_hub, on_main, on_nf4, on_bf16 = execute(pushed, tmp_path, **online)
    assert from_hub == expected
    assert on_main == answers["bf16"]  # nothing that the nf4 version before it has left there
    assert on_nf4 == answers["nf4"] != on_bf16  # base in NF4 and adapter beside it is what the form nf4 serves
    assert execute(here, tmp_path) == expected


@pytest.mark.journey
def test_the_adapter_of_the_packaged_base_is_loaded_on_what_it_was_trained_on(tmp_path: Path) -> None:
    from llmops.model.base.catalog import read_catalogue
    from llmops.model.base.weights import convert_gguf

    entry, version = read_catalogue()[0], tmp_path / "version"
    gguf = entry.find_packaged_file()
    assert gguf
    convert_gguf(gguf, version / "servable")
    write_adapter(version / "servable", version / "adapter")
    known = lineage(entry.model, f"{entry.package}==0.1.2/{entry.file}")
    *_, ask, adapter = blocks(card.render_loading(UNPUBLISHED, known, chat=True))
    (answer,) = execute([(version, adapter + ask.replace("96", "8"))], tmp_path)
    assert answer


def test_an_adapter_of_a_local_folder_has_no_code_that_could_not_run() -> None:
    known = lineage("ours", "local")
    section = card.render_loading(UNPUBLISHED, known, chat=True, repo="me/bot")
    assert len(blocks(section)) == 2 and "`ours`" in section
