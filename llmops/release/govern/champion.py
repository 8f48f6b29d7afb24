"""The daily review: judges the champion again by the current rules."""

from typing import Any

from llmops.config import Config
from llmops.events.datasets import GOVERNANCE
from llmops.events.events import emit
from llmops.frame.errors import GovernanceError
from llmops.release.govern.review import review
from llmops.release.registry.registry import registry_of


def review_champion(config: Config) -> dict[str, Any]:
    """Judge the champion's stored answers and its answers to the probes, by the current rules.

    Emit an event `llmops.governance`. Return the content of a `governance.json` with the version, or
    `{"state": "no champion"}`.

    Raises:
        GovernanceError: if the champion fails, after the event.
    """
    champion = registry_of(config).champion()
    if champion is None:
        return {"state": "no champion"}
    document, _, _ = review(config.govern, champion.path / "answers.parquet", champion.servable, [])
    emit(
        config.events,
        GOVERNANCE,
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
