"""Fields of alerts, and of the measurements that lead to alerts."""

from __future__ import annotations

from llmops.monitoring.datasets import ALERT, DECAY, DRIFT, IMPROVEMENT, SINK
from llmops.monitoring.fields.field import Field, fields_of

FIELDS: tuple[Field, ...] = (
    # Alerts.
    *fields_of(
        ALERT,
        fields=(
            ("rule.name", "keyword", "the rule that was broken"),
            ("llmops.alert.id", "keyword", "of an alert: the same when it is raised, silenced and over"),
            ("llmops.alert.state", "keyword", "`raised`, `resolved` or `silenced`"),
            ("llmops.alert.severity", "keyword", "`warning` or `critical`"),
            ("llmops.alert.subject", "keyword", "what it is about: a version, a feature, a DAG, a key"),
            ("llmops.alert.value", "double", "what was measured"),
            ("llmops.alert.bound", "double", "what was promised"),
            ("llmops.alert.since", "date", "window that was judged"),
            ("llmops.alert.until", "date", ""),
            ("llmops.alert.raised", "date", "when it was raised"),
            ("llmops.alert.resolved", "date", "when it was over"),
            ("llmops.alert.place", "keyword", "the machine, if it alone can judge this"),
            ("llmops.alert.runbook", "keyword", "where it is said what to do"),
            ("llmops.alert.link", "keyword", "the dashboard"),
            ("llmops.dag", "keyword", ""),
            ("llmops.task", "keyword", ""),
            ("llmops.deadline", "keyword", "by when a run was to be done"),
        ),
    ),
    *fields_of(
        SINK,
        fields=(
            (
                "llmops.sink.name",
                "keyword",
                "`event.action`: `failing`, `recovered`, `refusing` or `settled`",
            ),
            ("llmops.sink.waiting", "long", "events that it has yet to take"),
            ("llmops.sink.rejected", "long", "events that it has refused for good"),
        ),
    ),
    *fields_of(
        DRIFT,
        fields=(
            (
                "llmops.drift.feature",
                "keyword",
                "what was compared: a feature; `texts`, or `features` together, as a whole",
            ),
            ("llmops.drift.side", "keyword", "`prompt` or `answer`"),
            ("llmops.drift.test", "keyword", "`ks`, `chi_square` or `domain_classifier`"),
            ("llmops.drift.statistic", "double", "of the test"),
            (
                "llmops.drift.effect",
                "double",
                "how large it is, however many requests: the stability index (PSI), or AUC",
            ),
            ("llmops.drift.p_value", "double", ""),
            ("llmops.drift.q_value", "double", "the same, of all comparisons of the window (Benjamini-Hochberg)"),
            ("llmops.drift.drifted", "boolean", "whether this window differs"),
            ("llmops.drift.windows", "long", "windows in a row in which it differs (drift: `alerts.drift_windows`)"),
            ("llmops.drift.requests", "long", "in the window"),
            ("llmops.drift.since", "date", "the window"),
            ("llmops.drift.until", "date", ""),
            (
                "llmops.drift.reference",
                "keyword",
                "what was compared with: `training` data, or what was `served` first",
            ),
            ("llmops.drift.topics", "keyword", "topics that appear or vanish, or are asked more or less"),
            ("llmops.drift.shares", "object", "`bins`, and the share of each in `reference` and `window`"),
            ("llmops.drift.unlike", "keyword", "ids of the requests that are the most unlike the reference"),
        ),
    ),
    *fields_of(
        DECAY,
        fields=(
            ("llmops.decay.metric", "keyword", "`f1`, `accuracy`, `perplexity`, `up_share`, `refusals`, …"),
            ("llmops.decay.set", "keyword", "`fixed`: the frozen test; `fresh`: corrected by people; `live`: requests"),
            ("llmops.decay.value", "double", ""),
            ("llmops.decay.low", "double", "lower bound of its interval"),
            ("llmops.decay.high", "double", "upper bound of its interval"),
            ("llmops.decay.items", "long", "items or requests that it is of"),
            ("llmops.decay.content", "keyword", "digest of the items: figures of the same can be compared"),
            ("llmops.decay.days", "long", "days so far, of the last 90"),
            ("llmops.decay.slope", "double", "change per day, of these days"),
            ("llmops.decay.slope_low", "double", "lower bound of its interval"),
            ("llmops.decay.slope_high", "double", "upper bound of its interval"),
            ("llmops.decay.decayed", "boolean", "whether the interval says that it gets worse"),
        ),
    ),
    *fields_of(
        IMPROVEMENT,
        fields=(
            ("llmops.improvement.since", "date", "what was said from then on"),
            ("llmops.improvement.until", "date", ""),
            ("llmops.improvement.corrections", "long", ""),
            ("llmops.improvement.accepted", "long", "that became examples"),
            ("llmops.improvement.refused", "long", ""),
            ("llmops.improvement.waiting", "long", "for a person"),
            ("llmops.improvement.pairs", "long", "of a chosen and a rejected answer"),
            ("llmops.improvement.topics", "long", "that are asked and not answered; the report names them"),
            ("llmops.improvement.report", "keyword", "where it is told in words"),
        ),
    ),
)
