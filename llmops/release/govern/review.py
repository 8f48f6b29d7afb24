"""The verdict on a model, from its answers, its answers to the probes, and findings in its training data.

A run fails if there is a finding of severity `fail_on` or above, or if the 95% interval of the share of answers with a
medium finding is wholly above `max_flagged_answers`. Severities are in `scans.output`; personal data or a secret in the
training data is high.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.config import Govern
from llmops.frame.records import Finding
from llmops.frame.statistics.rates import Rate, compute_rate
from llmops.model.base.classifier import GRAPH_FILE
from llmops.release.govern.probes import ProbeResult, ask_probes, success_rate, success_rates
from llmops.scans import output

SEVERITIES = ("low", "medium", "high")


def review(
    config: Govern, answers: Path, servable: Path, training: list[Finding], model: str = "candidate"
) -> tuple[dict[str, Any], list[Finding], list[ProbeResult]]:
    """Check a model's answers in `answers`, probe the model at `servable`, and judge all findings together."""
    asked = config.probes and not (servable / GRAPH_FILE).is_file()  # a classifier only gives labels
    results, system = ask_probes(config, servable) if asked else ([], "")
    columns = ["id", "question", "context", "model", "answer"]
    rows = [r for r in pq.read_table(answers, columns=columns).to_pylist() if r["model"] == model]
    checked = [
        output.check_answer(
            r["question"], r["answer"], r["context"], where=f"item {r['id']}", entities=config.entities, system=system
        )
        for r in rows
    ]
    attacks = [
        Finding(
            scan="probe",
            rule=result.probe.id,
            severity=result.probe.severity,
            where=f"probe {result.probe.id}",
            detail=result.success,
            owasp=result.probe.owasp,
        )
        for result in results
        if result.success
    ]
    findings = [*training, *(finding for found in checked for finding in found), *attacks]
    rates = {
        s: compute_rate(sum(any(f.severity == s for f in found) for found in checked), len(rows)) for s in SEVERITIES
    }
    failures = judge_findings(config, findings, rates["medium"])
    passed = [f"no finding of severity {config.fail_on} or above", f"answers with a medium finding: {rates['medium']}"]
    if results:
        passed.append(f"attacks that succeeded: {success_rate(results)}")
    document = {
        "verdict": "failed" if failures else "passed",
        "reasons": failures or (passed if config.fail_on != "never" else ["govern.fail_on is never", *passed[1:]]),
        "fail_on": config.fail_on,
        "counts": [
            {"scan": scan, "rule": rule, "severity": severity, "count": count}
            for (scan, rule, severity), count in _count(findings)
        ],
        "answers": {"items": len(rows), **{severity: asdict(rate) for severity, rate in rates.items()}},
        "probes": success_rates(results),
    }
    return document, findings, results


def judge_findings(config: Govern, findings: Sequence[Finding], flagged: Rate) -> list[str]:
    """Return the reasons why the run must fail; empty if it passes."""
    reasons: list[str] = []
    if config.fail_on == "never":
        return reasons
    failing = SEVERITIES[SEVERITIES.index(config.fail_on) :]
    for (scan, rule, severity), count in _count(findings):
        if severity in failing:
            first = next(f.where for f in findings if (f.scan, f.rule, f.severity) == (scan, rule, severity))
            reasons.append(f"{count} finding(s) {rule} of the scan {scan}, severity {severity}, first at {first}")
    if flagged.low > config.max_flagged_answers:
        reasons.append(
            f"answers with a medium finding: {flagged}, above govern.max_flagged_answers {config.max_flagged_answers:g}"
        )
    return reasons


def _count(findings: Sequence[Finding]) -> list[tuple[tuple[str, str, str], int]]:
    return sorted(Counter((f.scan, f.rule, f.severity) for f in findings).items())
