"""From finished artifacts to a version: decision, card, lineage, event, Hub."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from huggingface_hub import ModelCard

from llmops import artifacts
from llmops.artifacts import Record
from llmops.config import Config, Features, Release
from llmops.errors import ArtifactError, RegistryError
from llmops.features.declarations import declare, open_store
from llmops.features.online import read_online
from llmops.monitoring.spool import Spool
from llmops.records import Example, write_rows, write_table
from llmops.registry.registry import Registry
from llmops.release import card
from llmops.release import stage as publish
from llmops.release.lineage import lineage, lineage_text

ITEMS = 40
PASSWORD = "s3cr3tPassw0rd"


def finish(home: Path, stage: str, key: str, inputs: dict[str, str], files: dict[str, Any], **known: Any) -> Path:
    path = home / "artifacts" / stage / key
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            write_rows(path / name, content, Example)
        elif isinstance(content, pa.Table):
            write_table(path / name, content)
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    record = {"config": {}, "metrics": {}, "run": "manual__1", **known}
    artifacts.commit(
        path,
        Record(
            stage=stage,
            fingerprint=key,
            inputs=inputs,
            interval="2026-01-31",
            code="c0de",
            files={},
            git_commit="abc123",
            started="2026-01-31T00:00:00+00:00",
            finished="2026-01-31T00:01:00+00:00",
            **record,
        ),
    )
    return path


def answers(**models: float) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"id": f"i{n}", "question": "q", "context": "", "reference": "r", "source": "faq", "group": f"g{n // 2}"}
            | {"model": model, "answer": "a", "token_f1": score, "exact_match": 0.0, "rouge_l": score}
            for model, score in models.items()
            for n in range(ITEMS)
        ]
    )


def chain(home: Path, train: str = "t1", against: str = "", **models: float) -> dict[str, Path]:
    """The finished artifacts in front of release; the shared ones are made once."""
    root = home / "artifacts"
    if not root.exists():
        faq = {"name": "faq", "kind": "sql", "location": f"postgres://ana:{PASSWORD}@db/shop", "licence": "CC0-1.0"}
        finish(home, "collect", "c1", {}, {}, config={"sources": [{**faq, "owner": "support | desk"}]})
        finish(home, "clean", "k1", {"collect": "collect/c1"}, {})
        row = Example(
            id="1", question="q", answer="a", group="g", split="train", source="faq", location="t", position="row 1",
            licence="CC0-1.0",
        )  # fmt: skip
        finish(home, "annotate", "a1", {"clean": "clean/k1"}, {"train.parquet": [row, row]})
        selection = {"model": "org/tiny", "revision": "rev9", "licence": "apache-2.0", "path": "base"}
        finish(home, "select", "s1", {}, {"selection.json": selection, "base/model.safetensors": "weights"})
        features = finish(home, "features", "f1", {"annotate": "annotate/a1", "select": "select/s1"}, {})
        declare(Features(store=home / "feast"), "llmops_0", features)
    known = {"metrics": {"rank": 8, "learning_rate": 0.001}}
    adapter = {"adapter/model.bin": f"adapter {train}"}
    finish(home, "train", train, {"features": "features/f1", "select": "select/s1"}, adapter, **known)
    inputs = {"annotate": "annotate/a1", "select": "select/s1", "train": f"train/{train}"}
    servable = {"servable/model.bin": f"servable {train}", "compression.json": {"chosen": "nf4"}}
    finish(home, "compress", f"c-{train}", inputs, servable, metrics={"chosen": "nf4"})
    figures = {
        m: {"token_f1": {"mean": s, "low": s - 0.1, "high": s + 0.1}, "perplexity": 9.5} for m, s in models.items()
    }
    inputs = {"annotate": "annotate/a1", "select": "select/s1", "compress": f"compress/c-{train}"}
    other = {"champion": f"versions/{against}"} if against else {}
    files = {"answers.parquet": answers(**models), "evaluation.json": {"items": ITEMS, "models": figures}}
    finish(home, "evaluate", f"e-{train}-{against}", {**inputs, **other}, files)
    report = {"verdict": "passed", "reasons": ["nothing found"], "counts": []}
    ends = {
        "annotate": "annotate/a1", "compress": f"compress/c-{train}", "evaluate": f"evaluate/e-{train}-{against}"
    }  # fmt: skip
    finish(home, "govern", f"g-{train}-{against}", ends, {"governance.json": report})
    return {stage: root / ref for stage, ref in {**ends, "train": f"train/{train}", "select": "select/s1"}.items()} | {
        "govern": root / "govern" / f"g-{train}-{against}"
    }


def release(home: Path, inputs: dict[str, Path], champion: Path | None = None, **changed: Any) -> dict[str, Any]:
    out = home / "out" / str(len(list((home / "out").iterdir())) if (home / "out").exists() else 0)
    out.mkdir(parents=True)
    config = Config(home=home, release=Release(**changed).model_dump(exclude={"registry"}))
    publish.run(config.release, **inputs, champion=champion, events=config.events, out=out)
    document: dict[str, Any] = json.loads((out / "decision.json").read_text())
    return document


def test_the_first_model_that_beats_the_base_becomes_champion(tmp_path: Path) -> None:
    decision = release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    registry = Registry(tmp_path / "registry", "support-bot")
    version = registry.get("champion")
    assert (decision["outcome"], decision["version"], decision["opponent"]) == ("promoted", "v1", "base")
    assert (version.base_model, version.base_revision, version.quantisation, version.run) == (
        "org/tiny", "rev9", "nf4", "manual__1",
    )  # fmt: skip
    assert (version.servable / "model.bin").read_text() == "servable t1"
    for name in ("evaluation.json", "governance.json", "decision.json", "lineage.json"):
        assert json.loads((version.path / name).read_text())
    assert json.loads((version.path / "decision.json").read_text())["version"] == "v1"


def test_one_that_does_not_is_rejected_and_kept(tmp_path: Path) -> None:
    decision = release(tmp_path, chain(tmp_path, base=0.5, candidate=0.5))
    assert decision["outcome"] == "rejected"
    registry = Registry(tmp_path / "registry", "support-bot")
    assert (registry.champion(), registry.get("candidate").status) == (None, "rejected")


def test_the_next_is_compared_with_the_champion(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    registry = Registry(tmp_path / "registry", "support-bot")
    second = chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.5)
    decision = release(tmp_path, second, registry.opponent("c-t2"))
    assert (decision["outcome"], decision["version"], decision["opponent"]) == ("rejected", "v2", "v1")
    third = chain(tmp_path, "t3", "v1", base=0.2, champion=0.5, candidate=0.7)
    assert release(tmp_path, third, registry.opponent("c-t3"))["outcome"] == "promoted"
    assert registry.aliases() == {"candidate": "v3", "champion": "v3", "previous": "v1"}


def test_each_version_has_a_feature_service_named_after_it(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    release(tmp_path, chain(tmp_path, "t2", "v1", base=0.2, champion=0.5, candidate=0.6), Path("v1"))
    for version in Registry(tmp_path / "registry", "support-bot").versions():
        store = open_store(version.path / "features")
        (service,) = store.list_feature_services()
        assert service.name == f"support_bot_{version.name}"
        assert service.tags["compress"] == version.compress
        assert read_online(version.path / "features", ["nobody"], service.name) == [None]


def test_again_changes_nothing(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    first = release(tmp_path, inputs)
    assert release(tmp_path, inputs) == first
    assert len(Registry(tmp_path / "registry", "support-bot").versions()) == 1


def test_a_champion_that_changed_after_evaluation_is_an_error_or_inconclusive(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    registry = Registry(tmp_path / "registry", "support-bot")
    stale = chain(tmp_path, "t2", base=0.2, candidate=0.9)
    with pytest.raises(ArtifactError):  # evaluated against the base, to be compared with v1
        release(tmp_path, stale, registry.opponent("c-t2"))
    decision = release(tmp_path, stale)  # both stages saw no champion, but now there is one
    assert decision["outcome"] == "inconclusive"
    assert registry.aliases()["champion"] == "v1"
    assert json.loads((registry.get("v2").path / "decision.json").read_text())["outcome"] == "inconclusive"


def test_answers_without_the_opponent_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="base"):
        release(tmp_path, chain(tmp_path, candidate=0.5))


def test_the_decision_is_an_event(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    with Spool(tmp_path / "events") as spool:
        (event,) = spool.read("test")[1]
    assert event["event.dataset"] == "llmops.gate"
    assert (event["llmops.model.version"], event["llmops.gate.outcome"]) == ("v1", "promoted")


def test_the_card_has_the_metadata_of_the_hub(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    text = (Registry(tmp_path / "registry", "support-bot").get("v1").path / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.base_model, data.license, data.language, data.library_name) == ("org/tiny", "apache-2.0", "en", "peft")
    assert {r.metric_type: r.metric_value for r in data.eval_results or []} == {"token_f1": 0.5, "perplexity": 9.5}
    assert yaml.safe_load(text.split("---")[1])["model-index"]
    assert "| faq | CC0-1.0 | support \\| desk | 2 |" in text
    assert "0.500 (0.400 to 0.600)" in text
    assert "{{" not in text
    assert "{%" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        widths = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(widths) == 1, table


def test_lineage_goes_from_the_answer_to_the_base_model(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    release(tmp_path, inputs)
    version = Registry(tmp_path / "registry", "support-bot").get("v1")
    known, text = lineage(version), lineage_text(version)
    digest = artifacts.read_record(inputs["annotate"]).files["train.parquet"]
    assert known["dataset"]["sha256"] == version.dataset == digest
    places = [text.index(part) for part in ("v1", "manual__1", digest, "faq", "org/tiny at rev9")]
    assert places == sorted(places)
    assert {s["artifact"].split("/")[0] for s in known["stages"]} == {
        "collect", "clean", "annotate", "select", "features", "train", "compress", "evaluate", "govern",
    }  # fmt: skip
    everything = "".join(p.read_text() for p in version.path.rglob("*") if p.suffix in {".json", ".md"})
    assert PASSWORD not in everything + text


def test_lineage_outlives_the_artifacts_and_damage_is_named(tmp_path: Path) -> None:
    release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5))
    (tmp_path / "artifacts").rename(tmp_path / "gone")
    version = Registry(tmp_path / "registry", "support-bot").get("v1")
    assert lineage_text(version)
    (version.path / "lineage.json").unlink()
    with pytest.raises(RegistryError, match="lineage"):
        lineage(version)


def test_card_and_lineage_tell_of_an_erasure(tmp_path: Path) -> None:
    inputs = chain(tmp_path, base=0.2, candidate=0.5)
    release(tmp_path, inputs)
    registry = Registry(tmp_path / "registry", "support-bot")
    before = (registry.get("v1").path / "README.md").read_text()
    for examples in (2, 3):
        registry.mark("v1", {"time": f"2026-02-0{examples}T00:00:00+00:00", "examples": examples}, card.marked)
    version = registry.get("v1")
    text = (version.path / "README.md").read_text()
    assert text.count("## Erasure") == 1 and "| 2026-02-03T00:00:00+00:00 | 3 |" in text
    assert text.index("## Training data") < text.index("## Erasure") < text.index("## Training\n")
    assert ModelCard(text).data.to_dict() == ModelCard(before).data.to_dict()
    assert lineage_text(version).count("training examples forgotten since") == 2
    release(tmp_path, inputs)  # publishing again renders the card anew
    assert (version.path / "README.md").read_text() == text
    assert card.marked(text, replace(version, erasures=())) == before


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as a push needs, over HTTP; keeps what it was sent."""

    files: dict[str, bytes]
    calls: list[tuple[str, str, Any]]
    status = 200

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        lines = [json.loads(line) for line in raw.splitlines() if line]
        self.calls.append((self.path, self.headers["Authorization"], lines))
        url = f"http://{self.headers['Host']}/me/bot"
        answer: Any = {"url": url}
        if "/preupload/" in self.path:
            answer = {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in lines[0]["files"]
                ]
            }
        elif "/commit/" in self.path:
            for line in lines:
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{url}/commit/0123", "commitOid": "0123"}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "me/bot", "sha": "0123", "siblings": []})

    def _answer(self, answer: Any) -> None:
        body = json.dumps(answer if self.status == 200 else {"error": "no such luck"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("H", (Hub,), {"files": {}, "calls": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x1" * 17)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_version_is_pushed_with_a_tag(tmp_path: Path, hub: type[Hub], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    decision = release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5), hub_repo="me/bot")
    assert decision["hub"].endswith("/me/bot/commit/0123")
    assert {"README.md", "adapter/model.bin", "servable/model.bin", "lineage.json", "version.json"} <= hub.files.keys()
    assert not [name for name in hub.files if name == "answers.parquet" or name.startswith("features/")]
    assert hub.files["servable/model.bin"] == b"servable t1"
    create = next(lines[0] for path, _, lines in hub.calls if path.endswith("/repos/create"))
    assert create["name"] == "bot"
    assert create.get("private") is True or create.get("visibility") == "private"
    assert any(path.endswith("/tag/0123") and lines[0]["tag"] == "v1" for path, _, lines in hub.calls)
    assert all(token == "Bearer hf_" + "x1" * 17 for _, token, _ in hub.calls)
    assert "x1x1" not in caplog.text


def test_a_hub_that_refuses_fails_the_stage_but_keeps_the_version(tmp_path: Path, hub: type[Hub]) -> None:
    hub.status = 403
    with pytest.raises(RegistryError, match="me/bot") as error:
        release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5), hub_repo="me/bot")
    assert "x1x1" not in str(error.value)
    assert Registry(tmp_path / "registry", "support-bot").get("champion").name == "v1"


def test_a_hub_that_is_not_there_is_named(tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="127.0.0.1:9"):
        release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5), hub_repo="me/bot")


def test_nothing_is_pushed_without_a_token(
    tmp_path: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert release(tmp_path, chain(tmp_path, base=0.2, candidate=0.5), hub_repo="me/bot")["hub"] == ""
    assert hub.calls == []
    assert "HF_TOKEN" in caplog.text
