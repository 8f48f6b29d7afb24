"""Fields of the events of the pipeline, the registry, API keys and the Hub."""

from __future__ import annotations

from llmops.monitoring.datasets import (
    ADMIN,
    AUDIT,
    CANARY,
    ERASURE,
    GATE,
    GOVERNANCE,
    HUB,
    HUB_DATASET,
    PIPELINE,
    RETENTION,
)
from llmops.monitoring.fields.field import Field, fields_of

FIELDS: tuple[Field, ...] = (
    # The pipeline.
    *fields_of(
        PIPELINE,
        fields=(
            ("llmops.artifact", "keyword", "stage and fingerprint"),
            ("llmops.interval", "keyword", "the data interval"),
            ("llmops.metrics", "object", "the stage's figures"),
            ("llmops.transient", "boolean", "whether trying again may help"),
        ),
    ),
    *fields_of(
        GATE,
        fields=(
            ("llmops.gate.outcome", "keyword", "`promoted`, `rejected` or `inconclusive`"),
            ("llmops.gate.opponent", "keyword", "the champion, or the base model"),
            ("llmops.gate.reasons", "keyword", "why, in words"),
            ("llmops.gate.items", "long", "items of the frozen test"),
            ("llmops.gate.attempt", "long", "which attempt at this test it was"),
            ("llmops.gate.level", "double", "significance level of this attempt"),
            ("llmops.gate.left", "double", "what is left of the test's budget"),
            ("llmops.gate.power", "double", "probability to find the minimum effect"),
            ("llmops.gate.metric", "keyword", "the primary metric"),
            ("llmops.gate.candidate", "double", "the candidate's value of it"),
            ("llmops.gate.opponent_value", "double", "the opponent's"),
            ("llmops.gate.difference", "double", "the paired difference"),
            ("llmops.gate.low", "double", "lower bound of its interval"),
            ("llmops.gate.high", "double", "upper bound of its interval"),
        ),
    ),
    *fields_of(
        CANARY,
        fields=(
            ("llmops.canary.kind", "keyword", "`canary` or `ab_test`"),
            (
                "llmops.canary.outcome",
                "keyword",
                "`regression`, `no_regression`, `insufficient_data` or `error`",
            ),
            ("llmops.canary.started", "date", ""),
            (
                "llmops.canary.numbers",
                "object",
                "counts of both sides, and what the tests of each measure found",
            ),
        ),
    ),
    *fields_of(CANARY, ADMIN, fields=[("llmops.canary.share", "double", "share of the requests")]),
    *fields_of(
        ADMIN,
        fields=(
            ("llmops.aliases", "object", "what each alias points to since then"),
            ("llmops.override", "keyword", "why a version that the gate did not pass was let through"),
        ),
    ),
    *fields_of(
        AUDIT,
        fields=(
            ("llmops.audit.count", "long", "how many such decisions there were"),
            ("llmops.target.key.prefix", "keyword", "the key that something was done with"),
            ("llmops.target.review", "keyword", "what a user had said that was decided on"),
            ("llmops.target.key.expires", "date", ""),
            ("llmops.target.key.requests_per_minute", "long", ""),
            ("llmops.target.key.tokens_per_minute", "long", ""),
            ("user.target.name", "keyword", "whose key it is"),
            ("user.target.roles", "keyword", ""),
        ),
    ),
    *fields_of(
        GOVERNANCE,
        fields=(
            ("llmops.governance.verdict", "keyword", ""),
            ("llmops.governance.reasons", "keyword", ""),
            ("llmops.governance.counts", "object", "findings by severity"),
            ("llmops.governance.flagged_answers", "double", "share of answers with a finding of medium severity"),
            ("llmops.governance.attack_success_rate", "double", "share of the attacks that succeed"),
        ),
    ),
    *fields_of(
        ERASURE,
        fields=(
            ("llmops.erasure.receipt", "long", "its number"),
            ("llmops.erasure.time", "date", ""),
            ("llmops.erasure.documents", "long", "rows of the sources"),
            ("llmops.erasure.artifacts", "long", "that were deleted"),
            ("llmops.erasure.versions", "keyword", "models and versions that were taken back"),
            ("llmops.erasure.remaining", "long", "places that could not be reached"),
        ),
    ),
    *fields_of(
        RETENTION,
        fields=(
            ("llmops.retention.freed", "long", "bytes"),
            ("llmops.retention.artifacts", "long", ""),
            ("llmops.retention.versions", "keyword", ""),
        ),
    ),
    *fields_of(
        HUB,
        HUB_DATASET,
        fields=(
            ("llmops.hub.repo", "keyword", "the repository"),
            ("llmops.hub.endpoint", "keyword", "the address of the Hub"),
            ("llmops.hub.main", "keyword", "whose files `main` has"),
            ("llmops.hub.champion", "keyword", ""),
            ("llmops.hub.behind", "keyword", "refs that differ"),
            ("llmops.hub.equal", "boolean", "whether the Hub has what the registry has"),
            ("llmops.hub.pushed", "keyword", "refs that were pushed"),
            ("llmops.hub.failed", "object", "refs that could not be pushed, and why"),
        ),
    ),
)
