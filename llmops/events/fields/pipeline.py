"""Fields of the events of the pipeline, the registry, API keys and the Hub."""

from __future__ import annotations

from llmops.events.datasets import (
    ADMIN,
    AUDIT,
    CANARY,
    ERASURE,
    GATE,
    GOVERNANCE,
    HUB,
    PIPELINE,
    RETENTION,
)
from llmops.events.fields.field import Field, make_fields

FIELDS: tuple[Field, ...] = (
    # The pipeline.
    *make_fields(
        PIPELINE,
        fields=(
            ("llmops.artifact", "keyword", "stage and fingerprint"),
            ("llmops.interval", "keyword", "the data interval"),
            ("llmops.metrics", "object", "figures of the stage"),
            ("llmops.transient", "boolean", "another try may succeed"),
        ),
    ),
    *make_fields(
        GATE,
        fields=(
            ("llmops.gate.outcome", "keyword", "`promoted`, `rejected` or `inconclusive`"),
            ("llmops.gate.opponent", "keyword", "the champion, or the base model"),
            ("llmops.gate.reasons", "keyword", "why, in words"),
            ("llmops.gate.items", "long", "items of the frozen test"),
            ("llmops.gate.attempt", "long", "number of the attempt at this test"),
            ("llmops.gate.level", "double", "significance level of this attempt"),
            ("llmops.gate.left", "double", "rest of the test's error budget"),
            ("llmops.gate.power", "double", "probability of detecting the minimum effect"),
            ("llmops.gate.metric", "keyword", "the primary metric"),
            ("llmops.gate.candidate", "double", "the candidate's value"),
            ("llmops.gate.opponent_value", "double", "the opponent's value"),
            ("llmops.gate.difference", "double", "the paired difference"),
            ("llmops.gate.low", "double", "lower bound of its interval"),
            ("llmops.gate.high", "double", "upper bound of its interval"),
        ),
    ),
    *make_fields(
        CANARY,
        fields=(
            ("llmops.canary.kind", "keyword", "`canary` or `ab_test`"),
            ("llmops.canary.outcome", "keyword", "`regression`, `no_regression`, `insufficient_data` or `error`"),
            ("llmops.canary.started", "date", ""),
            ("llmops.canary.numbers", "object", "counts of both sides, and test results of each measure"),
        ),
    ),
    *make_fields(CANARY, ADMIN, fields=[("llmops.canary.share", "double", "share of the requests")]),
    *make_fields(
        ADMIN,
        fields=(
            ("llmops.aliases", "object", "alias → version after the change"),
            ("llmops.override", "keyword", "reason for using a version that the gate did not pass"),
        ),
    ),
    *make_fields(
        AUDIT,
        fields=(
            ("llmops.audit.count", "long", "number of equal decisions"),
            ("llmops.target.key.prefix", "keyword", "prefix of the changed key"),
            ("llmops.target.review", "keyword", "id of the feedback that was reviewed"),
            ("llmops.target.key.expires", "date", ""),
            ("llmops.target.key.requests_per_minute", "long", ""),
            ("llmops.target.key.tokens_per_minute", "long", ""),
            ("llmops.target.key.tokens_per_month", "long", ""),
            ("user.target.name", "keyword", "owner of the key"),
            ("user.target.roles", "keyword", ""),
        ),
    ),
    *make_fields(
        GOVERNANCE,
        fields=(
            ("llmops.governance.verdict", "keyword", ""),
            ("llmops.governance.reasons", "keyword", ""),
            ("llmops.governance.counts", "object", "findings by severity"),
            ("llmops.governance.flagged_answers", "double", "share of answers with a finding of medium severity"),
            ("llmops.governance.attack_success_rate", "double", "share of successful attacks"),
        ),
    ),
    *make_fields(
        ERASURE,
        fields=(
            ("llmops.erasure.receipt", "long", "number of the receipt"),
            ("llmops.erasure.time", "date", ""),
            ("llmops.erasure.documents", "long", "number of the person's rows in the sources"),
            ("llmops.erasure.artifacts", "long", "number of deleted artifacts"),
            ("llmops.erasure.versions", "keyword", "withdrawn models and versions"),
            ("llmops.erasure.remaining", "long", "number of places that could not be reached"),
        ),
    ),
    *make_fields(
        RETENTION,
        fields=(
            ("llmops.retention.freed", "long", "freed bytes"),
            ("llmops.retention.artifacts", "long", ""),
            ("llmops.retention.versions", "keyword", ""),
        ),
    ),
    *make_fields(
        HUB,
        fields=(
            ("llmops.hub.repo", "keyword", "the repository"),
            ("llmops.hub.endpoint", "keyword", "the address of the Hub"),
            ("llmops.hub.main", "keyword", "version on `main`"),
            ("llmops.hub.pushed", "keyword", "refs that were pushed"),
        ),
    ),
)
