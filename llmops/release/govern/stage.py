"""The stage govern: scans the training data again, checks the candidate's answers, probes it, and reaches a verdict.

    python -m llmops run govern

`review` has the criteria. The report is written before a run fails.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.config import Govern
from llmops.frame.artifacts import is_skipped, read_record, write_json
from llmops.frame.errors import GovernanceError
from llmops.frame.records import CLOSED_BOOK, Example, Finding, get_base_path, read_rows, write_rows
from llmops.model.gguf.worker import is_gguf
from llmops.model.gguf.write import convert_to_gguf
from llmops.release.govern.probes import format_results
from llmops.release.govern.review import SEVERITIES, review
from llmops.scans import output, pii

TRAINED = ("train.parquet", "validation.parquet")  #: files read by training


def run(config: Govern, *, annotate: Path, compress: Path, evaluate: Path, out: Path) -> dict[str, Any]:
    """Write `governance.json`, `findings.parquet`, `probes.json` and `report.md`.

    Where the base model may take a rejected candidate's place, `base.json` has its verdict, which fails no run.

    Raises:
        GovernanceError: if the verdict is "failed". The report is in `out`.
    """
    residual, items = scan_training(annotate, config.entities)
    redacted = Counter(finding.rule for finding in read_rows(annotate / "findings.parquet", Finding))
    document, findings, results = review(config, evaluate / "answers.parquet", compress / "servable", residual)
    document["training"] = {
        "items": items,
        "residual": len(residual),
        "redacted_before_training": dict(sorted(redacted.items())),
    }
    write_rows(out / "findings.parquet", findings, Finding)
    write_json(out / "probes.json", format_results(results))
    write_json(out / "governance.json", document)
    (out / "report.md").write_text(format_report(document, findings), encoding="utf-8")
    if is_skipped(compress):
        write_json(out / "base.json", document)  # the candidate is the base
    elif CLOSED_BOOK in pq.read_table(evaluate / "answers.parquet", columns=["model"])["model"].unique().to_pylist():
        base = Path(get_base_path(evaluate.parents[1] / read_record(evaluate).inputs["select"]))
        served = convert_to_gguf(base, out / ".base") if is_gguf(compress / "servable") else base
        write_json(out / "base.json", review(config, evaluate / "answers.parquet", served, [], "base")[0])
        shutil.rmtree(out / ".base", ignore_errors=True)
    if document["verdict"] == "failed":
        raise GovernanceError(f"Governance: {'; '.join(document['reasons'])}. The report is {out / 'report.md'}.")
    return {
        "verdict": document["verdict"],
        "findings": dict(Counter(f.severity for f in findings)),
        "flagged_answers": document["answers"]["medium"]["rate"],
        "attack_success_rate": document["probes"]["all"]["rate"] if results else None,
        "redacted": sum(redacted.values()),
    }


def scan_training(annotate: Path, entities: Sequence[str]) -> tuple[list[Finding], int]:
    """Return the findings in the training texts after redaction, and the number of examples scanned."""
    findings: list[Finding] = []
    items = 0
    for name in TRAINED:
        rows = read_rows(annotate / name, Example)
        items += len(rows)
        texts = [text for row in rows for text in (row.question, row.answer, row.context)]
        for n, counts in enumerate(pii.count_entities(texts, entities)):
            row, field = rows[n // 3], ("question", "answer", "context")[n % 3]
            findings += [
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
    return findings, items


def format_report(document: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Return the report of a review in Markdown."""
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
    lines += ["## Answers and probes", "", "| share of | share | 95% interval |", "| --- | --- | --- |"]
    lines += [f"| answers with a {s} finding | {_format_row(answers[s])}" for s in SEVERITIES]
    lines += [f"| attacks that succeeded: {name} | {_format_row(rate)}" for name, rate in probes.items()]
    lines += ["", "## Findings", "", "| scan | rule | severity | OWASP | where | detail |", "|" + " --- |" * 6]
    worst = sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.scan, f.rule, f.where))
    lines += [f"| {f.scan} | {f.rule} | {f.severity} | {f.owasp} | {f.where} | {f.detail} |" for f in worst]
    return "\n".join(lines) + "\n"


def _format_row(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['total']} ({rate['rate']:.1%}) | {rate['low']:.1%} to {rate['high']:.1%} |"
