"""Fields of requests, their texts, and user feedback."""

from __future__ import annotations

from llmops.events.datasets import FEEDBACK, SERVING, TEXT
from llmops.events.fields.field import Field, make_fields


def _make_feature_fields(side: str) -> list[Field]:
    return make_fields(
        TEXT,
        fields=(
            (f"llmops.{side}.characters", "long", f"length of the {side}"),
            (f"llmops.{side}.words", "long", f"words of the {side}"),
            (f"llmops.{side}.language", "keyword", f"language of the {side}, ISO 639-1; `unknown`: too short"),
            (f"llmops.{side}.script", "keyword", f"script of most letters of the {side}, by its Unicode name"),
            (f"llmops.{side}.unknown_share", "double", f"share of the {side}'s words that the training data lack"),
            (f"llmops.{side}.topics", "keyword", f"topics of the training data nearest to the {side}"),
        ),
    )


FIELDS: tuple[Field, ...] = (
    # A request.
    *make_fields(
        SERVING,
        fields=(
            ("gen_ai.operation.name", "keyword", "`text_completion`, `chat` or `embeddings`"),
            ("gen_ai.request.model", "keyword", "the model that was asked for"),
            ("gen_ai.request.max_tokens", "long", "longest answer, in tokens"),
            ("gen_ai.request.temperature", "double", ""),
            ("gen_ai.request.top_p", "double", ""),
            ("gen_ai.request.seed", "long", ""),
            ("gen_ai.request.choice.count", "long", "number of requested answers, if not one"),
            ("gen_ai.request.stream", "boolean", "a streamed answer was requested"),
            ("gen_ai.request.stop_sequences", "long", "number of stop sequences, without their texts"),
            ("gen_ai.output.type", "keyword", "`json` if `response_format` asked for it"),
            ("gen_ai.response.finish_reasons", "keyword", "why each answer ended"),
            ("gen_ai.usage.input_tokens", "long", "tokens of the prompt"),
            ("gen_ai.usage.output_tokens", "long", "tokens of the answer"),
            ("llmops.time_to_first_token", "long", "from the request to its first token, in nanoseconds"),
            ("llmops.queue_time", "long", "from the request to its start in the engine, in nanoseconds"),
            ("llmops.prompt.digest", "keyword", "keyed digest of the prompt: equal for equal texts, irreversible"),
            ("llmops.answer.digest", "keyword", "keyed digest of the answer"),
            ("llmops.schema.digest", "keyword", "keyed digest of the JSON schema of the answer, or of its functions"),
            ("llmops.retrieval.passages", "keyword", "ids of the passages that a grounded answer rests on"),
            ("llmops.retrieval.documents", "keyword", "ids of the documents that they are of"),
            (
                "llmops.retrieval.outcome",
                "keyword",
                "`found`, `refused`, `none` (answered without passages), `no_index` or `down`",
            ),
            ("llmops.guard.verdict", "keyword", "`passed`, or `cut` by the guard"),
            ("llmops.guard.rules", "keyword", "rules by which the guard cut the answer"),
            (
                "llmops.canary.side",
                "keyword",
                "side that answered: `champion`, `canary` (in a trial), or a `tested` version",
            ),
            ("trace.id", "keyword", "trace of the request; the caller's if it sent `traceparent`"),
        ),
    ),
    # Its texts.
    *(field for side in ("prompt", "answer") for field in _make_feature_fields(side)),
    *make_fields(
        TEXT,
        fields=(
            ("llmops.answer.refusal", "boolean", "the answer is a refusal"),
            ("llmops.answer.label", "keyword", "the label that a classifier gave; `none`: no label was sure enough"),
            (
                "llmops.answer.confidence",
                "double",
                "probability of the likeliest label; of requests to `/classify`",
            ),
        ),
    ),
    *make_fields(
        TEXT,
        fields=(
            (
                "llmops.prompt.text",
                "text",
                "the prompt, personal data replaced by marks; only with `monitoring.keep_text`",
            ),
            ("llmops.answer.text", "text", "the answer, likewise"),
            ("llmops.context.text", "text", "the context, likewise"),
        ),
        personal=True,
    ),
    # Feedback.
    *make_fields(FEEDBACK, fields=[("llmops.feedback.rating", "keyword", "`up` or `down`")]),
    *make_fields(
        FEEDBACK,
        fields=[
            (f"llmops.feedback.{name}", "text", f"the {name}, personal data replaced by marks")
            for name in ("comment", "correction", "question", "answer", "context")
        ],
        personal=True,
    ),
)
