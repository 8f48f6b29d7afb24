"""Govern: scan the training data again, check the candidate's answers, probe it, and give a verdict.

    python -m llmops run govern

What fails a run: a finding of the severity `fail_on` or above, or a share of answers with a medium finding whose whole
95% interval lies above `max_flagged_answers`. The report is written before the run fails. Severities are in `output`;
personal data or a secret left in the training data is high.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from llmops.artifacts import write_json
from llmops.config import Config, Govern
from llmops.errors import GovernanceError
from llmops.records import Example, Finding, read_rows, write_rows
from llmops.scans import output, pii
from llmops.scans.output import Probe
from llmops.statistics.rates import Rate, wilson

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

EVENTS = "llmops.governance"  #: dataset of the events about reviews
SEVERITIES = ("low", "medium", "high")
TRAINED = ("train.parquet", "validation.parquet")  #: what training reads; the test is never trained on

_SEPARATOR = "<|question|>"


@dataclass(frozen=True, slots=True)
class Trial:
    """A probe and what the model made of it."""

    probe: Probe
    answer: str
    success: str  #: by what sign the attack succeeded; empty if it did not


def run(config: Govern, *, annotate: Path, compress: Path, evaluate: Path, out: Path) -> dict[str, Any]:
    """Write `governance.json`, `findings.parquet`, `probes.json` and `report.md`.

    Raises:
        GovernanceError: if the verdict is "failed"; the report is in `out`.
    """
    residual, items = scan_training(annotate, config.entities)
    redacted = Counter(finding.rule for finding in read_rows(annotate / "findings.parquet", Finding))
    document, findings, trials = _review(config, evaluate / "answers.parquet", compress / "servable", residual)
    document["training"] = {
        "items": items,
        "residual": len(residual),
        "redacted_before_training": dict(sorted(redacted.items())),
    }
    write_rows(out / "findings.parquet", findings, Finding)
    write_json(out / "probes.json", _shown(trials))
    write_json(out / "governance.json", document)
    (out / "report.md").write_text(report(document, findings), encoding="utf-8")
    if document["verdict"] == "failed":
        raise GovernanceError(f"Governance: {'; '.join(document['reasons'])}. The report is {out / 'report.md'}.")
    return {
        "verdict": document["verdict"],
        "findings": dict(Counter(f.severity for f in findings)),
        "flagged_answers": document["answers"]["medium"]["rate"],
        "attack_success_rate": document["probes"]["all"]["rate"] if trials else None,
        "redacted": sum(redacted.values()),
    }


def review_champion(config: Config) -> dict[str, Any]:
    """Judge the champion again, by today's rules: its stored answers and its answers to today's probes.

    Emits an event of the dataset `llmops.governance`. Returns the content of a `governance.json` with the version, or
    `{"state": "no champion"}`.

    Raises:
        GovernanceError: if the champion fails today's rules; after the event.
    """
    from llmops.monitoring.events import emit
    from llmops.registry.registry import registry_of

    champion = registry_of(config).champion()
    if champion is None:
        return {"state": "no champion"}
    document, _, _ = _review(config.govern, champion.path / "answers.parquet", champion.servable, [])
    emit(
        config.events,
        EVENTS,
        {
            "event.action": "review",
            "event.outcome": "success" if document["verdict"] == "passed" else "failure",
            "llmops.model.name": config.release.name,
            "llmops.model.version": champion.name,
            "llmops.governance.verdict": document["verdict"],
            "llmops.governance.reasons": document["reasons"],
            "llmops.governance.counts": document["counts"],
            "llmops.governance.flagged_answers": document["answers"]["medium"]["rate"],
            "llmops.governance.attack_success_rate": document["probes"]["all"]["rate"] if document["probes"] else None,
        },
    )
    if document["verdict"] == "failed":
        raise GovernanceError(
            f"The champion {champion.name} fails today's rules: {'; '.join(document['reasons'])}. "
            "`llmops models rollback` brings the previous one back."
        )
    return {"state": "reviewed", "version": champion.name, **document}


def scan_training(annotate: Path, entities: Sequence[str]) -> tuple[list[Finding], int]:
    """What redaction left behind in the texts that training reads, and how many examples were scanned."""
    found: list[Finding] = []
    items = 0
    for name in TRAINED:
        rows = read_rows(annotate / name, Example)
        items += len(rows)
        texts = [text for row in rows for text in (row.question, row.answer, row.context)]
        for n, counts in enumerate(pii.scan_all(texts, entities)):
            row, field = rows[n // 3], ("question", "answer", "context")[n % 3]
            found += [
                Finding(
                    scan="secrets" if entity == pii.SECRET else "pii",
                    rule=entity,
                    severity="high",
                    where=f"{name} {row.id}",
                    detail=f"{count} in the {field}, from {row.source} {row.location} {row.position}",
                    owasp=output.DISCLOSURE,
                )
                for entity, count in counts.items()
            ]
    return found, items


def verdict(config: Govern, findings: Sequence[Finding], flagged: Rate) -> list[str]:
    """Why the run must fail; empty if it need not."""
    reasons: list[str] = []
    if config.fail_on == "never":
        return reasons
    bad = SEVERITIES[SEVERITIES.index(config.fail_on) :]
    for (scan, rule, severity), count in _counts(findings):
        if severity in bad:
            first = next(f.where for f in findings if (f.scan, f.rule, f.severity) == (scan, rule, severity))
            reasons.append(f"{count} finding(s) {rule} of the scan {scan}, severity {severity}, first at {first}")
    if flagged.low > config.max_flagged_answers:
        reasons.append(
            f"answers with a medium finding: {flagged}, above govern.max_flagged_answers {config.max_flagged_answers:g}"
        )
    return reasons


def report(document: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The report for people, in Markdown."""
    training, answers, probes = document.get("training"), document["answers"], document["probes"]
    lines = [f"# Governance: {document['verdict']}", "", *(f"- {reason}" for reason in document["reasons"]), ""]
    if training:
        redacted = ", ".join(f"{n} {entity}" for entity, n in training["redacted_before_training"].items()) or "nothing"
        lines += [
            "## Training data",
            "",
            f"{training['items']} examples scanned, {training['residual']} findings. Redacted before: {redacted}.",
            "",
        ]
    lines += ["## Answers and probes", "", "| what | share | 95% interval |", "| --- | --- | --- |"]
    lines += [f"| answers with a {s} finding | {_row(answers[s])}" for s in SEVERITIES]
    lines += [f"| attacks that succeeded: {name} | {_row(rate)}" for name, rate in probes.items()]
    lines += ["", "## Findings", "", "| scan | rule | severity | OWASP | where | detail |", "|" + " --- |" * 6]
    worst = sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.scan, f.rule, f.where))
    lines += [f"| {f.scan} | {f.rule} | {f.severity} | {f.owasp} | {f.where} | {f.detail} |" for f in worst]
    return "\n".join(lines) + "\n"


def _review(
    config: Govern, answers: Path, servable: Path, training: list[Finding]
) -> tuple[dict[str, Any], list[Finding], list[Trial]]:
    """Check the candidate's answers in `answers`, probe the model at `servable`, and judge all findings together."""
    trials, system = _probe(config, servable) if config.probes else ([], "")
    columns = ["id", "question", "context", "model", "answer"]
    rows = [r for r in pq.read_table(answers, columns=columns).to_pylist() if r["model"] == "candidate"]
    checked = [
        output.check(
            r["question"], r["answer"], r["context"], where=f"item {r['id']}", entities=config.entities, system=system
        )
        for r in rows
    ]
    attacks = [
        Finding(
            scan="probe",
            rule=t.probe.id,
            severity=t.probe.severity,
            where=f"probe {t.probe.id}",
            detail=t.success,
            owasp=t.probe.owasp,
        )
        for t in trials
        if t.success
    ]
    findings = [*training, *(finding for found in checked for finding in found), *attacks]
    rates = {s: wilson(sum(any(f.severity == s for f in found) for found in checked), len(rows)) for s in SEVERITIES}
    failures = verdict(config, findings, rates["medium"])
    calm = [f"no finding of severity {config.fail_on} or above", f"answers with a medium finding: {rates['medium']}"]
    if trials:
        calm.append(f"attacks that succeeded: {_success(trials)}")
    document = {
        "verdict": "failed" if failures else "passed",
        "reasons": failures or (calm if config.fail_on != "never" else ["govern.fail_on is never", *calm[1:]]),
        "fail_on": config.fail_on,
        "counts": [
            {"scan": scan, "rule": rule, "severity": severity, "count": count}
            for (scan, rule, severity), count in _counts(findings)
        ],
        "answers": {"items": len(rows), **{severity: asdict(rate) for severity, rate in rates.items()}},
        "probes": _by_risk(trials),
    }
    return document, findings, trials


def _probe(config: Govern, servable: Path) -> tuple[list[Trial], str]:
    """Ask the model every probe, greedily; also gives the system prompt that its chat template adds."""
    from llmops.model.base import load

    model, tokenizer = load.load_servable(servable)
    todo = output.probes()
    requests = [(p.question, p.context) for p in todo]
    answers = load.answer(model, tokenizer, requests, config.probe_tokens, batch=len(requests))
    system = system_prompt(tokenizer)
    trials = [Trial(p, answer, output.judge(p, answer, system)) for p, answer in zip(todo, answers, strict=True)]
    log.info("attacks that succeeded: %s", _success(trials))
    return trials, system


def system_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template puts before the user's turn by itself, if it has one."""
    if not tokenizer.chat_template:
        return ""
    text = str(tokenizer.apply_chat_template([{"role": "user", "content": _SEPARATOR}], tokenize=False))
    return text.split(_SEPARATOR)[0]


def _success(trials: Sequence[Trial]) -> Rate:
    return wilson(sum(bool(t.success) for t in trials), len(trials))


def _by_risk(trials: Sequence[Trial]) -> dict[str, Any]:
    if not trials:
        return {}
    risks = sorted({t.probe.owasp for t in trials})
    rates = {risk: _success([t for t in trials if t.probe.owasp == risk]) for risk in risks}
    return {"all": asdict(_success(trials)), **{risk: asdict(rate) for risk, rate in rates.items()}}


def _counts(findings: Sequence[Finding]) -> list[tuple[tuple[str, str, str], int]]:
    return sorted(Counter((f.scan, f.rule, f.severity) for f in findings).items())


def _shown(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """The trials for reading: what looks personal in an answer, made up or not, is not written down."""
    texts = pii.redact_all([t.answer for t in trials], (*pii.PATTERNS, pii.SECRET))
    return [
        {
            "probe": t.probe.id,
            "owasp": t.probe.owasp,
            "question": t.probe.question,
            "answer": r.text,
            "success": t.success,
        }
        for t, r in zip(trials, texts, strict=True)
    ]


def _row(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['total']} ({rate['rate']:.1%}) | {rate['low']:.1%} to {rate['high']:.1%} |"
