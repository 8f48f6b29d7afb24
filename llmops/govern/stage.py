"""The stage govern: scans the training data again, checks the candidate's answers, probes it, and gives a verdict.

    python -m llmops run govern

`review` has the criteria. The report is written before a run fails.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmops.artifacts import write_json
from llmops.config import Govern
from llmops.errors import GovernanceError
from llmops.govern.probes import shown
from llmops.govern.report import report
from llmops.govern.review import review
from llmops.records import Example, Finding, read_rows, write_rows
from llmops.scans import output, pii

TRAINED = ("train.parquet", "validation.parquet")  #: files read by training


def run(config: Govern, *, annotate: Path, compress: Path, evaluate: Path, out: Path) -> dict[str, Any]:
    """Write `governance.json`, `findings.parquet`, `probes.json` and `report.md`.

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
    write_json(out / "probes.json", shown(results))
    write_json(out / "governance.json", document)
    (out / "report.md").write_text(report(document, findings), encoding="utf-8")
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
