"""Fields of alerts, and of the measurements that lead to alerts."""

from __future__ import annotations

from llmops.events.datasets import ALERT, DECAY, DRIFT, IMPROVEMENT, SINK
from llmops.events.fields.field import Field, make_fields

FIELDS: tuple[Field, ...] = (
    # Alerts.
    *make_fields(
        ALERT,
        fields=(
            ("rule.name", "keyword", "the rule that was broken"),
            ("llmops.alert.id", "keyword", "id of the alert, the same for all its states"),
            ("llmops.alert.state", "keyword", "`raised`, `resolved` or `silenced`"),
            ("llmops.alert.severity", "keyword", "`warning` or `critical`"),
            ("llmops.alert.subject", "keyword", "subject: a version, a feature, a DAG, a key"),
            ("llmops.alert.value", "double", "measured value"),
            ("llmops.alert.bound", "double", "promised value"),
            ("llmops.alert.since", "date", "window that was judged"),
            ("llmops.alert.until", "date", ""),
            ("llmops.alert.raised", "date", "when it was raised"),
            ("llmops.alert.resolved", "date", "when it was resolved"),
            ("llmops.alert.place", "keyword", "the only machine that can judge it"),
            ("llmops.alert.runbook", "keyword", "address of the runbook"),
            ("llmops.alert.link", "keyword", "address of the dashboard"),
            ("llmops.dag", "keyword", ""),
            ("llmops.task", "keyword", ""),
            ("llmops.deadline", "keyword", "deadline of the run"),
        ),
    ),
    *make_fields(
        SINK,
        fields=(
            ("llmops.sink.name", "keyword", "`event.action`: `failing`, `recovered`, `refusing` or `settled`"),
            ("llmops.sink.waiting", "long", "events that wait for it"),
            ("llmops.sink.rejected", "long", "events that it has refused for good"),
        ),
    ),
    *make_fields(
        DRIFT,
        fields=(
            ("llmops.drift.feature", "keyword", "compared feature; `texts`, or all `features` together"),
            ("llmops.drift.side", "keyword", "`prompt` or `answer`"),
            ("llmops.drift.test", "keyword", "`ks`, `chi_square`, or `clusters` (chi-square of these)"),
            ("llmops.drift.statistic", "double", "statistic of the test"),
            ("llmops.drift.effect", "double", "size of the difference: PSI"),
            ("llmops.drift.p_value", "double", ""),
            ("llmops.drift.q_value", "double", "p-value corrected for the window's comparisons (Benjamini-Hochberg)"),
            ("llmops.drift.drifted", "boolean", "this window differs"),
            ("llmops.drift.windows", "long", "windows in a row in which it differs (drift: `alerts.drift_windows`)"),
            ("llmops.drift.requests", "long", "requests in the window"),
            ("llmops.drift.since", "date", "start of the window"),
            ("llmops.drift.until", "date", ""),
            ("llmops.drift.reference", "keyword", "`training` data, or requests `served` in the first days"),
            ("llmops.drift.topics", "keyword", "topics whose share changed"),
            ("llmops.drift.shares", "object", "`bins`, and their shares in `reference` and `window`"),
            ("llmops.drift.unlike", "keyword", "ids of the requests least like the reference"),
        ),
    ),
    *make_fields(
        DECAY,
        fields=(
            ("llmops.decay.metric", "keyword", "`token_f1`, `accuracy`, `perplexity`, `up_share`, `refusals`, …"),
            (
                "llmops.decay.set",
                "keyword",
                "`fixed`: the frozen test; `fresh`: people's corrections; `live`: requests",
            ),
            ("llmops.decay.value", "double", ""),
            ("llmops.decay.low", "double", "lower bound of its interval"),
            ("llmops.decay.high", "double", "upper bound of its interval"),
            ("llmops.decay.items", "long", "number of items or requests"),
            (
                "llmops.decay.content",
                "keyword",
                "digest of the items, and if documents were used; only equal ones compare",
            ),
            ("llmops.decay.days", "long", "measured days of the last 90"),
            ("llmops.decay.slope", "double", "change per day"),
            ("llmops.decay.slope_low", "double", "lower bound of its interval"),
            ("llmops.decay.slope_high", "double", "upper bound of its interval"),
            ("llmops.decay.decayed", "boolean", "the slope's interval is on the bad side of 0"),
        ),
    ),
    *make_fields(
        IMPROVEMENT,
        fields=(
            ("llmops.improvement.since", "date", "start of the reported period"),
            ("llmops.improvement.until", "date", ""),
            ("llmops.improvement.corrections", "long", ""),
            ("llmops.improvement.accepted", "long", "feedback that became examples"),
            ("llmops.improvement.refused", "long", ""),
            ("llmops.improvement.waiting", "long", "feedback that waits for a person"),
            ("llmops.improvement.pairs", "long", "pairs of a chosen and a rejected answer"),
            ("llmops.improvement.topics", "long", "questions without a good answer"),
            ("llmops.improvement.report", "keyword", "artifact of the report"),
        ),
    ),
)
