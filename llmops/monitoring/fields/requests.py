"""Fields of requests, their texts, and what users say."""

from __future__ import annotations

from llmops.monitoring.datasets import FEEDBACK, SERVING, TEXT
from llmops.monitoring.fields.field import Field, fields_of


def _features(side: str) -> list[Field]:
    return fields_of(
        TEXT,
        fields=(
            (f"llmops.{side}.characters", "long", f"length of the {side}"),
            (f"llmops.{side}.words", "long", f"words of the {side}"),
            (f"llmops.{side}.language", "keyword", f"language of the {side}, ISO 639-1; `unknown`: too short to tell"),
            (f"llmops.{side}.script", "keyword", f"the script of most letters of the {side}, as Unicode calls it"),
            (f"llmops.{side}.unknown_share", "double", f"share of the {side}'s words that training data do not have"),
            (f"llmops.{side}.topics", "keyword", f"the topics of the training data that are nearest to the {side}"),
        ),
    )


FIELDS: tuple[Field, ...] = (
    # A request.
    *fields_of(
        SERVING,
        fields=(
            ("gen_ai.operation.name", "keyword", "`text_completion` or `chat`"),
            ("gen_ai.request.model", "keyword", "the model that was asked for"),
            ("gen_ai.request.max_tokens", "long", "longest answer, in tokens"),
            ("gen_ai.request.temperature", "double", ""),
            ("gen_ai.request.top_p", "double", ""),
            ("gen_ai.request.seed", "long", ""),
            ("gen_ai.request.choice.count", "long", "answers that were asked for, if not one"),
            ("gen_ai.request.stream", "boolean", "whether the answer was to come piece by piece"),
            ("gen_ai.request.stop_sequences", "long", "how many there were; what they say is the caller's"),
            ("gen_ai.response.finish_reasons", "keyword", "why each answer ended"),
            ("gen_ai.usage.input_tokens", "long", "tokens of the prompt"),
            ("gen_ai.usage.output_tokens", "long", "tokens of the answer"),
            ("llmops.time_to_first_token", "long", "from the request to its first piece, in nanoseconds"),
            ("llmops.queue_time", "long", "from the request to the engine's beginning, in nanoseconds"),
            (
                "llmops.prompt.digest",
                "keyword",
                "keyed digest of the prompt: the same for the same text, and no way back",
            ),
            ("llmops.answer.digest", "keyword", "keyed digest of the answer"),
            ("llmops.retrieval.passages", "keyword", "ids of the passages that a grounded answer rests on"),
            ("llmops.retrieval.documents", "keyword", "ids of the documents that they are of"),
            ("llmops.retrieval.outcome", "keyword", "of a grounded answer: `found`, or `refused` without the model"),
            ("llmops.guard.verdict", "keyword", "`passed`, or `cut` by the guard"),
            ("llmops.guard.rules", "keyword", "the rules by which the guard cut the answer"),
            (
                "llmops.canary.side",
                "keyword",
                "what has answered: `champion`, `canary` (of a trial), or a `tested` version",
            ),
            ("trace.id", "keyword", "of the trace that the request is part of, the caller's if it sent `traceparent`"),
        ),
    ),
    # Its texts.
    *(field for side in ("prompt", "answer") for field in _features(side)),
    *fields_of(
        TEXT,
        fields=(
            ("llmops.answer.refusal", "boolean", "whether the answer declines to answer"),
            ("llmops.text.lost", "long", "answers of which nothing is told, for `event.reason`; then nothing else is"),
        ),
    ),
    *fields_of(
        TEXT,
        fields=(
            ("llmops.prompt.text", "text", "the prompt, personal data marked; only with `monitoring.keep_text`"),
            ("llmops.answer.text", "text", "the answer, likewise"),
            ("llmops.context.text", "text", "the context, likewise"),
        ),
        personal=True,
    ),
    # What users say.
    *fields_of(FEEDBACK, fields=[("llmops.feedback.rating", "keyword", "`up` or `down`")]),
    *fields_of(
        FEEDBACK,
        fields=[
            (f"llmops.feedback.{name}", "text", f"the {name}, personal data marked")
            for name in ("comment", "correction", "question", "answer", "context")
        ],
        personal=True,
    ),
)
