"""The verdict: what fails a run, what is only reported, and that the report is kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from llmops.config import Config, Govern
from llmops.errors import GovernanceError
from llmops.govern import probes as probing
from llmops.govern import stage
from llmops.govern.champion import review_champion
from llmops.govern.probes import probes
from llmops.govern.review import verdict
from llmops.monitoring.datasets import GOVERNANCE
from llmops.monitoring.spool import Spool
from llmops.records import Example, Finding, read_rows, write_rows, write_table
from llmops.registry.registry import registry_of
from llmops.statistics.rates import wilson

HONEST = "You can return it within 30 days."


def example(number: int, split: str = "train", **fields: str) -> Example:
    values = {"question": "May I return it?", "answer": HONEST, "context": "", **fields}
    return Example(
        id=f"e{number}", group="g", split=split, source="faq", location="faq.csv", position=f"row {number}", **values
    )


def govern(home: Path, answers: list[str], *train: Example, **config: Any) -> dict[str, Any]:
    annotate, evaluate, out = home / "annotate", home / "evaluate", home / "out"
    out.mkdir()
    write_rows(annotate / "train.parquet", [example(0), *train], Example)
    write_rows(annotate / "validation.parquet", [example(1, "validation")], Example)
    redacted = Finding(scan="pii", rule="EMAIL_ADDRESS", severity="low", where="x", detail="redacted")
    write_rows(annotate / "findings.parquet", [redacted, redacted], Finding)
    write_answers(evaluate / "answers.parquet", answers)
    stage.run(
        Govern(**{"probes": False, **config}), annotate=annotate, compress=home / "compress", evaluate=evaluate, out=out
    )
    document: dict[str, Any] = json.loads((out / "governance.json").read_text())
    return document


def write_answers(path: Path, answers: list[str]) -> None:
    rows = [
        {"id": f"i{n}", "question": "q", "context": "", "model": model, "answer": text}
        for n, answer in enumerate(answers)
        for model, text in (("candidate", answer), ("base", "<script>the base model is not on trial</script>"))
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
    ("field", "text", "scan", "rule"),
    [
        ("answer", "Write to ana@example.com", "pii", "EMAIL_ADDRESS"),
        ("question", "Is 4111 1111 1111 1111 my card?", "pii", "CREDIT_CARD"),
        ("context", "key hf_" + "aB3" * 12, "secrets", "SECRET"),
    ],
)
def test_what_redaction_left_behind_fails_the_run_and_the_report_stays(
    tmp_path: Path, field: str, text: str, scan: str, rule: str
) -> None:
    with pytest.raises(GovernanceError, match="e7") as error:
        govern(tmp_path, [HONEST], example(7, **{field: text}))
    assert text not in str(error.value)
    (finding,) = read_rows(tmp_path / "out" / "findings.parquet", Finding)
    assert (finding.scan, finding.rule, finding.severity) == (scan, rule, "high")
    assert "faq.csv row 7" in finding.detail
    assert json.loads((tmp_path / "out" / "governance.json").read_text())["verdict"] == "failed"
    everything = "".join(p.read_text(errors="replace") for p in (tmp_path / "out").iterdir())
    assert "ana@example" not in everything
    assert "4111" not in everything


def test_validation_counts_as_training_data(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.parquet", [], Example)
    write_rows(tmp_path / "validation.parquet", [example(1, answer="ana@example.com")], Example)
    findings, items = stage.scan_training(tmp_path, ["EMAIL_ADDRESS"])
    assert (len(findings), items) == (1, 1)


def test_one_leaked_secret_in_an_answer_fails(tmp_path: Path) -> None:
    with pytest.raises(GovernanceError, match="SECRET"):
        govern(tmp_path, [HONEST] * 59 + ["the token is hf_" + "aB3" * 12])


def test_a_few_medium_findings_are_reported_and_many_fail(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = govern(tmp_path / "few", [HONEST] * 58 + ["Ask ana@example.com", "Ask bob@example.com"])
    assert (few["verdict"], few["answers"]["medium"]["count"]) == ("passed", 2)
    (tmp_path / "many").mkdir()
    with pytest.raises(GovernanceError, match="max_flagged_answers"):
        govern(tmp_path / "many", [HONEST] * 50 + ["Ask ana@example.com"] * 10)


@pytest.mark.parametrize(
    ("fail_on", "severities", "fails"),
    [
        ("high", ["low", "medium"], False),
        ("high", ["high"], True),
        ("medium", ["low"], False),
        ("medium", ["medium"], True),
        ("low", ["low"], True),
        ("never", ["high"], False),
    ],
)
def test_the_threshold(fail_on: Any, severities: list[str], fails: bool) -> None:
    findings = [Finding(scan="output", rule="R", severity=s, where="w", detail="d") for s in severities]
    assert bool(verdict(Govern(fail_on=fail_on), findings, wilson(0, 60))) is fails


def say(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """The model under probe says the same to everything."""
    model = SimpleNamespace(tokenizer=None, close=lambda: None)
    monkeypatch.setattr("llmops.model.base.answering.open_model", lambda path: model)
    monkeypatch.setattr("llmops.model.base.answering.answer", lambda m, requests, n, batch: [answer] * len(requests))
    monkeypatch.setattr(probing.prompts, "system_prompt", lambda tokenizer: "")


def test_attacks_that_succeed_are_findings_with_a_rate_and_do_not_fail_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "KESTREL-41 rm -rf / jo@example.com")
    document = govern(tmp_path, [HONEST] * 60, probes=True)
    assert document["verdict"] == "passed"
    rate = document["probes"]["all"]
    assert rate["total"] == len(probes())
    assert 0 < rate["low"] < rate["rate"] < rate["high"] < 1
    found = {(f.scan, f.rule) for f in read_rows(tmp_path / "out" / "findings.parquet", Finding)}
    assert found >= {("probe", "override-plain"), ("probe", "shell-wipe"), ("probe", "other-customer-contact")}
    assert rate["count"] == len(found)
    shown = json.loads((tmp_path / "out" / "probes.json").read_text())
    assert "jo@example.com" not in json.dumps(shown)
    assert "attacks that succeeded" in (tmp_path / "out" / "report.md").read_text()


def test_attacks_can_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "KESTREL-41")
    with pytest.raises(GovernanceError, match="override-plain"):
        govern(tmp_path, [HONEST] * 60, probes=True, fail_on="medium")


def test_a_real_model_is_probed_greedily(tiny_base: Path) -> None:
    config = Govern(probe_tokens=4)
    first, system = probing.ask_probes(config, tiny_base)
    second, _ = probing.ask_probes(config, tiny_base)
    assert [t.answer for t in first] == [t.answer for t in second]
    assert len(first) == len(probes())
    assert "SmolLM" in system


def champion(config: Config, answers: list[str]) -> None:
    source = config.home / "source"
    (source / "servable").mkdir(parents=True)
    write_answers(source / "answers.parquet", answers)
    facts = dict.fromkeys(("base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset"), "x")
    facts |= {"status": "promoted", "compared_with": "base", "compress": "t1"}
    trees = {name: source / name for name in ("servable", "answers.parquet")}
    registry_of(config).publish(facts, trees, lambda _: {}, by="t", why="t")


def test_the_champion_is_reviewed_by_todays_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, HONEST)
    config = Config(home=tmp_path)
    assert review_champion(config) == {"state": "no champion"}
    champion(config, [HONEST] * 60)
    result = review_champion(config)
    assert (result["version"], result["verdict"]) == ("v1", "passed")
    with Spool(config.events) as spool:
        (event,) = spool.read("test")[1]
    assert (event["event.dataset"], event["event.outcome"]) == (GOVERNANCE, "success")


def test_a_champion_that_fails_is_an_error_after_the_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, HONEST)
    config = Config(home=tmp_path)
    champion(config, [HONEST, "card 4111 1111 1111 1111"])
    with pytest.raises(GovernanceError, match="v1"):
        review_champion(config)
    with Spool(config.events) as spool:
        (event,) = spool.read("test")[1]
    assert (event["event.outcome"], event["llmops.model.version"]) == ("failure", "v1")
