"""The whole pipeline on the examples' real data, with a tiny base model so that it takes a minute; no Airflow."""

import csv
import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.frame import artifacts
from llmops.model.gguf.worker import is_gguf
from llmops.pipeline import stack
from tests.conftest import find_free_port

from .conftest import DAY, ROOT, Shell

#: of the example of intents; their texts are alike
INTENTS = ("card_arrival", "card_delivery_estimate", "lost_or_stolen_card", "compromised_card", "card_linking")


def _ask_served(shell: Shell, environ: dict[str, str], route: str, body: dict[str, Any]) -> dict[str, Any]:
    """Serve a home by `llmops serve`, send one request with a new key, and return the answer."""
    home, port = Path(environ["LLMOPS_HOME"]), int(environ["LLMOPS_SERVING__PORT"])
    key = json.loads(shell("llmops keys create --json", **environ).stdout)["key"]
    try:
        serving = stack._start_service(home, "serving", ["bash", "-c", "exec llmops serve"], port, environ)
        stack._wait_until_ready(home, serving, lambda s: stack._is_answering(f"{s.url}/readyz"), timeout_s=300)
        reply = httpx.post(f"{serving.url}{route}", headers={"X-API-Key": key}, json=body, timeout=60)
    finally:
        stack.stop(home)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


@pytest.fixture(scope="module")
def stages(home: Path) -> dict[str, Path]:
    lines = (home / "printed").read_text().splitlines()
    return {line.split()[0]: Path(line.split()[1]) for line in lines}


def test_every_artifact_is_whole(stages: dict[str, Path]) -> None:
    assert list(stages) == [
        "collect", "clean", "index", "annotate", "select", "features", "tune", "train", "compress", "evaluate",
        "govern", "release", "deploy", "push_to_hub",
    ]  # fmt: skip
    assert {name: artifacts.find_changed_files(path) for name, path in stages.items()} == {name: [] for name in stages}


def test_a_day_without_change_only_collects(stages: dict[str, Path], shell: Shell) -> None:
    done = shell("llmops run all --interval 2026-02-01")
    assert done.returncode == 0, done.stderr[-4000:]
    collect, *others = done.stdout.splitlines()
    assert "unchanged" not in collect and str(stages["collect"]) not in collect
    assert [line.split()[:2] for line in others] == [[n, str(p)] for n, p in stages.items() if n != "collect"]
    assert all(f"unchanged since {DAY}" in line for line in others)
    assert "nothing to train" in next(line for line in others if line.startswith("train"))


def test_the_line_of_the_crontab_runs_as_cron_runs_it(
    home: Path, stages: dict[str, Path], settings: dict[str, str], tmp_path: Path
) -> None:
    """By /bin/sh, with a percent sign for an escaped one, and with the variables of cron and of the crontab alone."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    CRON_TZ=UTC\n    10 0 \* \* \* (.*)$", page, re.MULTILINE)
    assert "%" not in line.replace(r"\%", "")  # cron would end the command there
    shutil.copytree(ROOT / "examples" / "support_bot" / "sources", tmp_path / "sources")
    shutil.copy(ROOT / "examples" / "support_bot" / "config.yaml", tmp_path / "shop.yaml")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    cron = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LOGNAME": "llmops", "CRON_TZ": "UTC"}
    crontab = {key: value for key, value in settings.items() if key != "LLMOPS_CONFIG"} | {"PYTHONPATH": str(ROOT)}
    command = line.replace(r"\%", "%").replace("/srv/llmops", str(tmp_path))
    begun = datetime.now(UTC)
    done = subprocess.run(["/bin/sh", "-c", command], cwd="/", env=cron | crontab, capture_output=True, text=True)
    log = (tmp_path / "llmops.log").read_text()
    assert done.returncode == 0, log[-4000:]
    assert (done.stdout, done.stderr) == ("", "")  # cron would mail it
    assert [name for name in stages if f"\n{name} " not in f"\n{log}"] == []
    collected = artifacts.read_record(artifacts.find_newest(home / "artifacts" / "collect"))
    days = {(now - timedelta(days=1)).date().isoformat() for now in (begun, datetime.now(UTC))}
    assert collected.interval in days


def test_decision_version_and_lineage(home: Path, stages: dict[str, Path], shell: Shell) -> None:
    decision = json.loads((stages["release"] / "decision.json").read_text())
    assert decision["outcome"] in ("promoted", "rejected", "inconclusive") and decision["reasons"]
    assert decision["opponent"] == "base" and decision["items"] >= 60
    version = home / "registry" / "support-bot" / "versions" / decision["version"]
    assert json.loads((version / "version.json").read_text())["quantisation"] == "q8_0"
    assert is_gguf(version / "servable")
    card = (version / "README.md").read_text()
    assert "base_model" in card and "CC0-1.0" in card
    done = shell(f"llmops lineage {decision['version']}")
    assert done.returncode == 0, done.stderr
    dataset = artifacts.read_record(stages["annotate"]).files["train.parquet"]
    for expected in (decision["version"], "test", dataset[:12], "sources/chats.jsonl", "local"):
        assert expected in done.stdout
    pushed = json.loads((stages["push_to_hub"] / "push.json").read_text())
    assert pushed == {"state": "no repository"}
    deployed: dict[str, Any] = json.loads((stages["deploy"] / "deployment.json").read_text())
    assert deployed["version"] == decision.get("instead", decision["version"])  # the base with documents, if rejected


def test_a_question_is_answered_from_the_documents_which_are_named(stages: dict[str, Path], shell: Shell) -> None:
    version = json.loads((stages["release"] / "decision.json").read_text())["version"]
    said = shell(f"llmops ask 'How do I return a tent?' --version {version} --json")
    assert said.returncode == 0, said.stderr[-4000:]
    answer = json.loads(said.stdout)
    assert answer["response"] and any("return" in source["snippet"].lower() for source in answer["sources"])
    assert all(source["location"] and source["title"] and source["score"] for source in answer["sources"])
    refused = shell(f"llmops ask 'Which planets have rings?' --version {version}")
    assert refused.stdout.strip() == "I can't answer that from the documents."


def test_documents_alone_are_served_and_a_deleted_one_is_not_cited(
    shell: Shell, environ: dict[str, str], tmp_path: Path
) -> None:
    pages = Path(shutil.copytree(ROOT / "benchmarks" / "own_documents" / "docs", tmp_path / "docs"))
    (tmp_path / "config.yaml").write_text(f"""
        collect: {{root: {pages}, sources: [{{name: notes, kind: markdown, location: "*.md"}}]}}
        grounding: {{enabled: true}}
        release: {{name: manual}}
    """)
    own = {
        "LLMOPS_HOME": str(tmp_path / "home"),
        "LLMOPS_CONFIG": str(tmp_path / "config.yaml"),
        "LLMOPS_SERVING__PORT": str(find_free_port()),
    }
    question = "How much free disk space does the container need?"

    def run() -> dict[str, Path]:
        done = shell(f"llmops run all --interval {DAY}", **own)
        assert done.returncode == 0, done.stderr[-4000:]
        return {line.split()[0]: Path(line.split()[1]) for line in done.stdout.splitlines()}

    def ask() -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(shell(f"llmops ask '{question}' --json", **own).stdout)
        return answer | {"pages": {source["location"] for source in answer["sources"]}}

    strict = {"LLMOPS_RELEASE__SERVE_DOCUMENTS": "gate", "LLMOPS_RELEASE__FLOORS": '{"token_f1": 0.99}'}
    rejected = shell(f"llmops run all --interval {DAY}", **own, **strict)
    assert rejected.returncode == 1 and "is below the floor 0.99" in rejected.stderr
    assert "llmops models promote v1 --override" in rejected.stderr.splitlines()[-1]
    listed, decided = (shell(f"llmops models {action}", **own).stdout for action in ("list", "decisions"))
    assert listed.split()[:2] == ["v1", "rejected"] and "is below the floor 0.99" in decided

    stages = run()
    skipped = [name for name, path in stages.items() if "skipped" in artifacts.read_record(path).metrics]
    decision = json.loads((stages["release"] / "decision.json").read_text())
    assert skipped == ["features", "tune", "train", "compress"] and decision["outcome"] == "promoted"
    assert json.loads((stages["deploy"] / "deployment.json").read_text())["version"] == "v1"
    assert "16GB" in ask()["response"] and "HACKING.md" in ask()["pages"]
    served = _ask_served(shell, environ | own, "/generate", {"prompt": question})
    assert "16GB" in served["response"] and served["sources"][0]["location"] == "HACKING.md"
    assert run() == stages
    (pages / "HACKING.md").unlink()
    assert run()["release"] != stages["release"]
    assert ask()["version"] == "v1" and "HACKING.md" not in ask()["pages"]
    assert [path.name for path in (tmp_path / "home/registry/manual/versions").glob("v*")] == ["v1"]


def test_labelled_messages_become_a_classifier_that_is_served(
    shell: Shell, environ: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "examples" / "intents", tmp_path / "intents")
    for split in ("train", "test"):
        path = tmp_path / "intents" / "data" / f"{split}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        kept = [row for row in rows if row[1] in INTENTS]
        if split == "train":
            kept += [["", INTENTS[0]], ["Where is it?", ""], ["Überweisung ging verloren", "转账"]]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *kept])
    own = {
        "LLMOPS_HOME": str(tmp_path / "home"),
        "LLMOPS_CONFIG": str(tmp_path / "intents" / "config.yaml"),
        "LLMOPS_SELECT__MODEL": "",
        "LLMOPS_TRAIN__EPOCHS": "3",
        "LLMOPS_TRAIN__LEARNING_RATE": "0.0001",
        "LLMOPS_SERVING__PORT": str(find_free_port()),
    }
    done = shell(f"llmops run all --interval {DAY}", **own)
    stages = {line.split()[0]: Path(line.split()[1]) for line in done.stdout.splitlines()}
    assert (done.returncode == 0) == ("deploy" in stages), done.stderr[-4000:]
    metrics = {name: artifacts.read_record(path).metrics for name, path in stages.items()}
    assert metrics["clean"]["dropped"]["missing"] == 2
    assert metrics["evaluate"]["candidate_accuracy"] > 0.85 and metrics["compress"]["chosen"] == "int8"
    report = (stages["evaluate"] / "report.html").read_text(encoding="utf-8")
    assert all(intent in report for intent in INTENTS)
    version = tmp_path / "home" / "registry" / "intents" / "versions" / "v1"
    card = (version / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card and "license: apache-2.0" in card
    if json.loads((stages["release"] / "decision.json").read_text())["outcome"] != "promoted":
        done = shell("llmops models promote v1 --override 'as good as the frozen encoder'", **own)
        assert done.returncode == 0, done.stderr
    texts = {"text": ["My card was stolen!", "When will my new card come?"]}
    results = _ask_served(shell, environ | own, "/classify", texts)["results"]
    stolen, asked = (found["labels"][0]["label"] for found in results)
    assert stolen == "lost_or_stolen_card" and asked in ("card_arrival", "card_delivery_estimate")
