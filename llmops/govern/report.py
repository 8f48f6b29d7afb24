"""The report of a review, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.govern.review import SEVERITIES
from llmops.records import Finding


def report(document: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Return the report in Markdown."""
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


def _row(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['total']} ({rate['rate']:.1%}) | {rate['low']:.1%} to {rate['high']:.1%} |"
