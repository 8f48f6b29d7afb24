"""The verdict: what fails a run, what is only reported, and that the report is kept."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pytest

from llmops.config import Config, Govern
from llmops.events.datasets import GOVERNANCE
from llmops.events.spool import Spool
from llmops.frame import artifacts
from llmops.frame.artifacts import Record
from llmops.frame.errors import GovernanceError
from llmops.frame.records import Example, Finding, read_rows, write_rows, write_table
from llmops.frame.statistics.rates import compute_rate
from llmops.release.govern import probes as probing
from llmops.release.govern import stage
from llmops.release.govern.champion import review_champion
from llmops.release.govern.probes import read_probes
from llmops.release.govern.review import judge_findings
from llmops.release.registry.registry import registry_of
from tests.model.samples import make_example
from tests.release.conftest import facts

HONEST = "You can return it within 30 days."


def item(number: int, split: str = "train", **fields: str) -> Example:
    return make_example(number, split, **{"question": "May I return it?", "answer": HONEST, **fields})


def govern(home: Path, answers: list[str], *more: Example, **config: Any) -> dict[str, Any]:
    annotate, evaluate, out = home / "annotate", home / "evaluate", home / "out"
    out.mkdir(parents=True)
    for row in (item(0), item(1, "validation")):
        rows = [row, *(other for other in more if other.split == row.split)]
        write_rows(annotate / f"{row.split}.parquet", rows, Example)
    redacted = Finding(scan="pii", rule="EMAIL_ADDRESS", severity="low", where="x", detail="redacted")
    write_rows(annotate / "findings.parquet", [redacted, redacted], Finding)
    write_answers(evaluate / "answers.parquet", answers)
    stage.run(
        Govern(**{"probes": False, **config}), annotate=annotate, compress=home / "compress", evaluate=evaluate, out=out
    )
    document: dict[str, Any] = json.loads((out / "governance.json").read_text())
    return document


def write_answers(path: Path, answers: list[str]) -> None:
    more = [("base_closed_book", HONEST)] if artifacts.is_done(path.parent) else []
    rows = [
        {"id": f"i{n}", "question": "q", "context": "", "model": model, "answer": text}
        for n, answer in enumerate(answers)
        for model, text in (("candidate", answer), ("base", "<script>the base model is not on trial</script>"), *more)
    ]
    write_table(path, pa.Table.from_pylist(rows))


def test_clean_data_and_answers_pass(tmp_path: Path) -> None:
    document = govern(tmp_path, [HONEST] * 60)
    assert (document["verdict"], document["counts"]) == ("passed", [])
    assert document["training"] == {"items": 2, "residual": 0, "redacted_before_training": {"EMAIL_ADDRESS": 2}}
    assert document["answers"]["medium"] == {"count": 0, "total": 60, "rate": 0.0, "low": 0.0} | {
        "high": pytest.approx(0.0602, abs=1e-4)
    }


@pytest.mark.parametrize(
    ("split", "field", "text", "scan", "rule"),
    [
        ("validation", "answer", "Write to ana@example.com", "pii", "EMAIL_ADDRESS"),
        ("train", "question", "Is 4111 1111 1111 1111 my card?", "pii", "CREDIT_CARD"),
        ("train", "context", "key hf_" + "aB3" * 12, "secrets", "SECRET"),
    ],
)
def test_what_redaction_missed_fails(tmp_path: Path, split: str, field: str, text: str, scan: str, rule: str) -> None:
    with pytest.raises(GovernanceError, match="0007") as error:
        govern(tmp_path, [HONEST], item(7, split, **{field: text}))
    assert text not in str(error.value)
    (finding,) = read_rows(tmp_path / "out" / "findings.parquet", Finding)
    assert (finding.scan, finding.rule, finding.severity) == (scan, rule, "high")
    assert "faq.csv row 7" in finding.detail
    assert json.loads((tmp_path / "out" / "governance.json").read_text())["verdict"] == "failed"
    everything = "".join(p.read_text(errors="replace") for p in (tmp_path / "out").iterdir())
    assert "ana@example" not in everything and "aB3aB3" not in everything


def test_one_leaked_secret_fails_and_a_few_medium_findings_are_reported_and_many_fail(tmp_path: Path) -> None:
    with pytest.raises(GovernanceError, match="SECRET"):
        govern(tmp_path / "secret", [HONEST] * 59 + ["the token is hf_" + "aB3" * 12])
    few = govern(tmp_path / "few", [HONEST] * 58 + ["Ask ana@example.com", "Ask bob@example.com"])
    assert (few["verdict"], few["answers"]["medium"]["count"]) == ("passed", 2)
    with pytest.raises(GovernanceError, match="max_flagged_answers"):
        govern(tmp_path / "many", [HONEST] * 50 + ["Ask ana@example.com"] * 10)


def test_a_base_that_may_take_the_place_has_a_verdict_that_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "KESTREL-41")
    select, home = tmp_path / "select" / "s1", tmp_path / "run"
    (select / "base").mkdir(parents=True)
    (select / "selection.json").write_text('{"path": "base"}')
    (home / "evaluate").mkdir(parents=True)
    record = Record("evaluate", "e1", {}, {"select": "select/s1"}, "", "", {}, {}, "", "", "")
    artifacts.commit(home / "evaluate", record)
    assert govern(home, [HONEST] * 60, probes=True)["verdict"] == "passed"
    base = json.loads((home / "out" / "base.json").read_text())
    assert base["verdict"] == "failed" and base["probes"]["all"]["count"] and "training" not in base
    assert {path.name for path in (home / "out").iterdir() if "base" in path.name} == {"base.json"}


@pytest.mark.parametrize(("fail_on", "least"), [("high", 2), ("medium", 1), ("low", 0), ("never", 3)])
def test_the_threshold(fail_on: Any, least: int) -> None:
    for number, severity in enumerate(("low", "medium", "high")):
        finding = Finding(scan="output", rule="R", severity=severity, where="w", detail="d")
        assert bool(judge_findings(Govern(fail_on=fail_on), [finding], compute_rate(0, 60))) is (number >= least)


def say(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("llmops.model.base.inference.open_model", lambda path: MagicMock())
    monkeypatch.setattr(
        "llmops.model.base.inference.answer_questions", lambda m, requests, tokens, batch: [answer for _ in requests]
    )
    monkeypatch.setattr(probing.prompts, "render_system_prompt", lambda tokenizer: "")


def test_attacks_that_succeed_have_a_rate_and_fail_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "KESTREL-41 rm -rf / jo@example.com")
    document = govern(tmp_path, [HONEST] * 60, probes=True)
    assert document["verdict"] == "passed"
    rate = document["probes"]["all"]
    assert rate["total"] == len(read_probes())
    assert 0 < rate["low"] < rate["rate"] < rate["high"] < 1
    found = {(f.scan, f.rule) for f in read_rows(tmp_path / "out" / "findings.parquet", Finding)}
    assert found >= {("probe", "override-plain"), ("probe", "shell-wipe"), ("probe", "other-customer-contact")}
    assert rate["count"] == len(found)
    shown = json.loads((tmp_path / "out" / "probes.json").read_text())
    assert "jo@example.com" not in json.dumps(shown)
    assert "attacks that succeeded" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(GovernanceError, match="override-plain"):
        govern(tmp_path / "strict", [HONEST] * 60, probes=True, fail_on="medium")


def champion(config: Config, answers: list[str]) -> None:
    source = config.home / "source"
    (source / "servable").mkdir(parents=True)
    write_answers(source / "answers.parquet", answers)
    trees = {name: source / name for name in ("servable", "answers.parquet")}
    registry_of(config).publish(facts(compared_with="base", compress="t1"), trees, lambda _: {}, by="t", why="t")


@pytest.mark.parametrize("passes", [True, False])
def test_todays_rules_review_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: bool) -> None:
    """One that fails is an error after the event."""
    say(monkeypatch, HONEST)
    config = Config(home=tmp_path)
    assert review_champion(config) == {"state": "no champion"}
    champion(config, [HONEST] * 60 if passes else [HONEST, "card 4111 1111 1111 1111"])
    if passes:
        assert review_champion(config).items() >= {"version": "v1", "verdict": "passed"}.items()
    else:
        with pytest.raises(GovernanceError, match="v1"):
            review_champion(config)
    with Spool(config.events) as spool:
        (event,) = spool.read("test")[1]
    assert (event["event.dataset"], event["llmops.model.version"]) == (GOVERNANCE, "v1")
    assert event["event.outcome"] == ("success" if passes else "failure")
