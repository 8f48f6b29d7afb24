"""The Hub over HTTP, and registries to push."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hub import FakeHub
from tests.release.conftest import facts
from tests.served import Answer
from tests.served import served as over_http


@pytest.fixture
def served(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """That Hub over HTTP, for other processes and for what only a socket logs."""
    import httpx2
    from huggingface_hub import set_client_factory

    def answered(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        answer = hub.ask(method, urlsplit(path).path, headers.get("Authorization"), body)
        status, content, told = (500, b"", {}) if isinstance(answer, str) else answer
        return status, told, content

    with over_http(answered) as hub.url:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        set_client_factory(lambda: httpx2.Client(timeout=60, follow_redirects=True))
        yield hub


def commit_artifact(path: Path, inputs: dict[str, str], config: dict[str, Any], metrics: dict[str, Any]) -> Path:
    from llmops.frame import artifacts
    from llmops.frame.artifacts import Record

    known: dict[str, Any] = {"stage": path.parent.name, "fingerprint": path.name, "interval": "2026-01-31"}
    known |= {"inputs": inputs, "config": config, "metrics": metrics, "files": {}}
    artifacts.commit(path, Record(**known, **dict.fromkeys(("code", "git_commit", "started", "finished"), "")))
    return path


@pytest.fixture
def write_version(tmp_path: Path) -> Any:
    """Return a function that publishes a version with files of its form; its `registry` is where."""
    return writer_of_versions(tmp_path)


def writer_of_versions(tmp_path: Path) -> Any:
    """Return such a function for a registry in a folder."""
    from llmops.release.registry.registry import Registry
    from llmops.state.database import database_at

    registry = Registry(tmp_path / "registry", "bot", database_at(f"sqlite:///{tmp_path}/state.db"))

    def write(number: int, status: str, form: str = "bf16") -> Any:
        folder = tmp_path / f"made-{number}"
        adapter, servable = folder / "adapter", folder / "servable"
        for path in (adapter, servable):
            path.mkdir(parents=True)
            (path / "config.json").write_text(json.dumps({"form": form}))
            (path / "model.safetensors").write_bytes(b"%d weights of %s " % (number, path.name.encode()) + b"." * 50)
        if form == "nf4":
            (servable / "adapter").mkdir()
            (servable / "adapter" / "adapter_model.safetensors").write_bytes(b"%d" % number)
        (folder / "answers.parquet").write_bytes(b"a person's question")
        (folder / "features").mkdir()
        (folder / "features" / "online.db").write_bytes(b"a person's tokens")
        names = ("adapter", "servable", "answers.parquet", "features")
        champion = registry.champion()
        known = facts(status=status, quantisation=form, compress=f"c{number}", base_model="org/base")
        known |= {"compared_with": champion.name if champion else "base"}
        stages = [{"artifact": "train/t1", "config": {"method": "qlora"}}]
        lineage = {"base_model": {"model": "org/base", "revision": "main"}, "stages": stages}
        lineage |= {"dataset": {"artifact": f"annotate/a{number}"}}
        card = f"# bot\n\n## Intended use\n\nanswers\n\n## Training\n\n{number}\n\n## How to load\n\nfrom here\n"
        decision = json.dumps({"outcome": status, "opponent": known["compared_with"], "reasons": ["better by 0.123"]})
        documents = {"README.md": card, "lineage.json": json.dumps(lineage), "decision.json": decision}
        trees, numbers = {n: folder / n for n in names}, {"compress": known["compress"]}
        return registry.publish(known, trees, lambda v: documents, by="gate", why="test", numbers=numbers)

    write.registry = registry  # type: ignore[attr-defined]
    return write
