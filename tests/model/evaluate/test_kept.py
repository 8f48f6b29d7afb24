"""Nobody is asked the same test twice: `evaluate`, run as the pipeline runs it, for one candidate after another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from llmops import artifacts, machine
from llmops.config import Config, load
from llmops.model.base.load import load_model
from llmops.model.evaluate import kept, stage
from llmops.model.gguf.write import write_folder
from llmops.pipeline import run_stage
from llmops.records import Example, write_rows

DAY = "2026-01-31"
FACTS: dict[str, Any] = dict.fromkeys(("interval", "code", "git_commit", "started", "finished"), "")


def items(count: int) -> list[Example]:
    return [
        Example(
            id=f"{n:016x}", question=f"Question {n}?", answer="We ship it.", group=f"t{n}", split="test", source="s",
            location="l", position="p",
        )
        for n in range(count)
    ]  # fmt: skip


class Home:
    """A home with what `evaluate` reads; its models are the tiny one, with weights `scale` times as large."""

    def __init__(self, home: Path, base: Path) -> None:
        self.path, self.base = home, base
        self.champion: Path | None = None

    def config(self, **changed: Any) -> Config:
        small = {"max_new_tokens": 6, "batch": 4, "bootstrap": 100} | changed
        return load(environ={"LLMOPS_HOME": str(self.path)}, overrides={"evaluate": small})

    def artifact(self, name: str, key: str, make: Callable[[Path], object]) -> Path:
        path = self.path / "artifacts" / name / key
        if not artifacts.is_done(path):
            path.mkdir(parents=True)
            make(path)
            artifacts.commit(path, artifacts.Record(name, key, {}, {}, metrics={}, files={}, **FACTS))
        return path

    def candidate(self, scale: float) -> Path:
        def make(out: Path) -> None:
            model = load_model(self.base)
            with torch.no_grad():
                for weights in model.parameters():
                    weights.mul_(scale)
            model.save_pretrained(out / "hf")
            shutil.copy(self.base / "tokenizer.json", out / "hf")
            shutil.copy(self.base / "tokenizer_config.json", out / "hf")
            write_folder(out / "hf", out / "servable", "f16")
            shutil.rmtree(out / "hf")

        return self.artifact("compress", f"{scale:.4f}", make)

    def inputs(self, scale: float, test: list[Example]) -> dict[str, Path]:
        names = "-".join(str(hash(one))[-4:] for one in test)
        return {
            "annotate": self.artifact("annotate", names, lambda o: write_rows(o / "test.parquet", test, Example)),
            "select": self.artifact(
                "select", "s", lambda o: (o / "selection.json").write_text(json.dumps({"path": str(self.base)}))
            ),
            "compress": self.candidate(scale),
            "index": self.artifact("index", "i", lambda o: (o / "passages.parquet").touch()),
        }

    def evaluate(self, scale: float, test: list[Example], **changed: Any) -> Path:
        return run_stage("evaluate", self.config(**changed), DAY, self.inputs(scale, test))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are asked, as they are."""
    folders: list[str] = []
    real = stage.ask

    def ask(folder: Path, *given: Any) -> Any:
        folders.append(folder.parent.name if folder.name == "servable" else folder.name)
        return real(folder, *given)

    monkeypatch.setattr(stage, "ask", ask)
    return folders


@pytest.fixture
def asked_for_show(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same, where what they answer does not matter: no model is loaded."""
    folders: list[str] = []

    def ask(folder: Path, test: list[Example], *given: Any) -> kept.Answers:
        folders.append(folder.parent.name if folder.name == "servable" else folder.name)
        return [f"{folders[-1]}: {item.id}" for item in test], [(1.5, 3) for _ in test]

    monkeypatch.setattr(stage, "ask", ask)
    return folders


@pytest.fixture
def home(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home(tmp_path, tiny_base)
    monkeypatch.setattr("llmops.sameness.champion", lambda config, candidate: made.champion)
    return made


def told(path: Path) -> dict[str, str]:
    return {name: said["kept"] for name, said in json.loads((path / "asked.json").read_text()).items()}


def promote(home: Home, scale: float) -> None:
    """As release does: the version's model is that of the candidate."""
    home.champion = home.path / "registry" / "bot" / "versions" / f"v{scale}"
    shutil.copytree(home.candidate(scale) / "servable", home.champion / "servable")


def test_a_later_run_asks_only_the_candidate(home: Home, asked: list[str]) -> None:
    first = home.evaluate(1.5, items(5))
    assert asked == ["base", "1.5000"] and told(first) == {"base": "", "candidate": ""}
    promote(home, 1.5)
    second = home.evaluate(2.0, items(5))
    assert asked[2:] == ["2.0000"]
    assert told(second) == {"base": first.name, "candidate": "", "champion": first.name}
    assert artifacts.read_record(second).metrics["kept"] == 2
    # what is made of kept answers is what is made of new ones, bit for bit
    files = {name: (second / name).read_bytes() for name in ("answers.parquet", "evaluation.json", "report.html")}
    content = artifacts.read_record(second).content
    shutil.rmtree(first)
    shutil.rmtree(second)
    again = home.evaluate(2.0, items(5))
    assert asked[3:] == ["base", "2.0000", home.champion.name]
    assert {name: (again / name).read_bytes() for name in files} == files
    assert artifacts.read_record(again).content == content


def test_a_candidate_that_is_the_champion_is_asked_once(home: Home, asked: list[str]) -> None:
    promote(home, 1.5)
    made = home.evaluate(1.5, items(3))
    assert asked == ["base", "1.5000"] and set(told(made).values()) == {""}
    assert artifacts.read_record(made).metrics["kept"] == 0


@pytest.mark.parametrize("what", ["item", "tokens", "batch", "machine", "kernels", "libraries", "code"])
def test_what_decides_answers_has_them_given_anew(
    what: str, home: Home, asked_for_show: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test, changed = items(3), dict[str, Any]()
    home.evaluate(1.5, test)
    if what == "item":
        test[1] = items(9)[8]
    elif what in ("tokens", "batch"):
        changed = {"max_new_tokens": 7} if what == "tokens" else {"batch": 2}
    elif what == "machine":
        monkeypatch.setattr(kept, "processor", lambda: "another")
    elif what == "kernels":
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    elif what == "libraries":
        monkeypatch.setattr("llmops.sameness.library_version", lambda name: "99.1")
    else:
        monkeypatch.setattr("llmops.sameness.code_version", lambda module: "another")
        monkeypatch.setattr("llmops.pipeline.code_version", lambda module: "another")
    made = home.evaluate(2.0, test, **changed)
    assert asked_for_show[2:] == ["base", "2.0000"] and set(told(made).values()) == {""}


@pytest.mark.parametrize("how", ["damaged", "unfinished", "half", "erased", "old", "null", "narrow"])
def test_only_what_is_whole_is_taken_over(how: str, home: Home, asked_for_show: list[str]) -> None:
    first = home.evaluate(1.5, items(3))
    if how == "damaged":
        (first / "answers.parquet").write_bytes((first / "answers.parquet").read_bytes()[:-1] + b"x")
    elif how == "unfinished":  # as a kill leaves it
        (first / "record.json").unlink()
    elif how == "half":
        table = pq.read_table(first / "answers.parquet")
        pq.write_table(table.slice(1), first / "answers.parquet")
        artifacts.commit(first, artifacts.read_record(first))
    elif how == "erased":
        artifacts.amend(first, {"time": "now"})
    elif how == "null":
        (first / "asked.json").write_text("null")
        artifacts.commit(first, artifacts.read_record(first))
    elif how == "narrow":
        pq.write_table(pq.read_table(first / "answers.parquet").drop_columns(["answer"]), first / "answers.parquet")
        artifacts.commit(first, artifacts.read_record(first))
    else:  # an earlier release told nothing
        (first / "asked.json").unlink()
        artifacts.commit(first, artifacts.read_record(first))
    assert not set(told(home.evaluate(2.0, items(3))).values()) - {""}
    assert asked_for_show[2:] == ["base", "2.0000"]


def test_files_behind_links_count(home: Home, tmp_path: Path) -> None:
    model, real = tmp_path / "model", tmp_path / "real"
    for folder in (model, real):
        folder.mkdir()
    (model / "adapter").symlink_to(real)
    digests = set()
    for content in ("a", "b"):
        (real / "weights").write_text(content)
        digests.add(kept.digest(model, "", items(1), home.config().evaluate))
    assert len(digests) == 2


X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nstepping\t: {0}\nflags\t\t: fpu {1}\n\nprocessor\t: 1\nstepping\t: {0}\n"
ARM = "processor\t: 0\nBogoMIPS\t: {0}.00\nFeatures\t: fp {1}\nCPU part\t: 0xd{0}c\n"


@pytest.mark.parametrize("text", [X86, ARM])
def test_a_processor_is_known_by_what_it_computes_with(text: str, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    kinds = set()
    for model, feature in (("1", "avx2"), ("1", "avx2"), ("2", "avx2"), ("1", "avx512f")):
        (tmp_path / "proc/cpuinfo").write_text(text.format(model, feature))
        kinds.add(machine.processor(tmp_path))
    assert len(kinds) == 3
    assert isinstance(machine.processor(tmp_path / "none"), str)
