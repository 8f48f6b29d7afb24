"""The errors of requests, and one table from error to HTTP status and code."""

from __future__ import annotations

import math
from datetime import datetime

from llmops.access.roles import (
    ExpiredKey,
    Forbidden,
    KeyRefused,
    NoMappedGroup,
    NoSuchKey,
    RevokedKey,
    SignInRefused,
    UnknownKey,
)
from llmops.access.usage import MonthRefused
from llmops.data.feedback.rows import ReviewNotFoundError
from llmops.frame.errors import (
    AccessError,
    EventsUnavailable,
    LlmopsError,
    RegistryError,
    ReviewError,
    StateError,
    StateReadOnly,
)


class NotReady(LlmopsError):
    """No model is loaded."""


class PromptRefused(LlmopsError):
    """The prompt is empty or too long, or requests too many tokens."""


class PromptTooLong(PromptRefused):
    """The prompt and its answer do not fit the model's context."""


class SchemaRefused(PromptRefused):
    """The engine does not follow the JSON schema."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"response_format or tools: {reason}.")


class NotClassifier(LlmopsError):
    """The version that answers is a language model."""

    def __init__(self, version: str) -> None:
        super().__init__(f"{version} is a language model and gives no labels' probabilities; ask it at /generate.")


class NoLogprobs(PromptRefused):
    """The engine gives no log-probabilities."""

    def __init__(self) -> None:
        super().__init__(
            "logprobs: this model's engine gives none; leave it out. The engines `openvino` and `vllm` give them."
        )


class QueueFull(LlmopsError):
    """Too many requests wait already."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"The queue is full ({waiting} waiting); try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class QueueShareFull(LlmopsError):
    """The key has as many waiting requests as it leaves free for other keys."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(
            f"{waiting} requests of this key wait already, and the rest of the queue is for other keys; try again in "
            f"{retry_after_s} s."
        )
        self.retry_after_s = retry_after_s


class LimitExceeded(LlmopsError):
    """The key has used its requests or tokens of this minute."""

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = max(math.ceil(wait_s), 1)


class BudgetUsed(LimitExceeded):
    """The key has used its tokens of this month."""

    def __init__(self, budget: int, used: int, end: datetime, wait_s: float) -> None:
        super().__init__(
            f"This key may use {budget} tokens a month and has used {used}; it may go on at {end:%Y-%m-%d %H:%M} UTC.",
            wait_s,
        )


class VersionNotLoaded(LlmopsError):
    """The requested side or version is not loaded here."""


class InputUnknown(LlmopsError):
    """The online store has no tokens for this `input_id`."""


class FeaturesDown(LlmopsError):
    """The online store does not answer."""


class FeaturesMissing(LlmopsError):
    """This image has no packages to read the online store."""


class NoDocuments(LlmopsError):
    """No index of documents is served."""

    def __init__(self) -> None:
        super().__init__("No documents are served here; leave `ground` out, or run the pipeline.")


class NoEmbeddings(LlmopsError):
    """No sentence model is served."""

    def __init__(self) -> None:
        super().__init__("No embedding model is served: it needs grounding.enabled, index.model, and a served index.")


class DocumentsDown(LlmopsError):
    """The served index of documents cannot be read."""

    def __init__(self) -> None:
        super().__init__("The index of documents cannot be read; the log says why. `ground: false` does without it.")


class TimedOut(LlmopsError):
    """The answer was not complete within `serving.timeout_s`."""


class ClientLeft(LlmopsError):
    """The caller has closed the connection."""

    def __init__(self, message: str = "The connection was closed before the answer was complete.") -> None:
        super().__init__(message)


class FeedbackRefused(LlmopsError):
    """The feedback is about no answer to its sender, or has another question or answer."""


class SignInUnavailable(LlmopsError):
    """The provider of sign-ins does not answer."""


class EventsUnreadable(LlmopsError):
    """No sink of events can be read."""


class EngineDied(LlmopsError):
    """The engine failed or was closed before the answer was complete."""

    def __init__(self) -> None:
        super().__init__("The engine stopped before the answer was complete; it is being restarted. Send it again.")


#: error → HTTP status and a code for programs; for an error, the first entry of one of its classes counts
STATUS: dict[type[LlmopsError], tuple[int, str]] = {
    NotClassifier: (409, "not_a_classifier"),
    UnknownKey: (401, "key_unknown"),
    ExpiredKey: (401, "key_expired"),
    RevokedKey: (401, "key_revoked"),
    Forbidden: (403, "forbidden"),
    NoMappedGroup: (403, "no_role"),
    SignInRefused: (401, "sign_in_refused"),
    AccessError: (401, "access"),
    StateReadOnly: (409, "state_read_only"),
    StateError: (503, "state_unreadable"),
    PromptTooLong: (422, "prompt_too_long"),
    PromptRefused: (422, "prompt_refused"),
    QueueFull: (429, "queue_full"),
    QueueShareFull: (429, "queue_share_full"),
    BudgetUsed: (429, "monthly_budget_used"),
    LimitExceeded: (429, "limited"),
    MonthRefused: (400, "month_refused"),
    KeyRefused: (422, "key_refused"),
    NoSuchKey: (404, "key_not_found"),
    FeedbackRefused: (422, "feedback_refused"),
    ReviewNotFoundError: (404, "review_not_found"),
    ReviewError: (422, "review_refused"),
    VersionNotLoaded: (404, "model_not_found"),
    InputUnknown: (404, "input_unknown"),
    ClientLeft: (499, "client_left"),
    NotReady: (503, "not_ready"),
    FeaturesDown: (503, "features_down"),
    FeaturesMissing: (501, "features_missing"),
    NoDocuments: (404, "no_documents"),
    NoEmbeddings: (404, "no_embeddings"),
    DocumentsDown: (503, "documents_down"),
    TimedOut: (504, "timed_out"),
    EngineDied: (503, "engine_died"),
    SignInUnavailable: (503, "sign_in_unavailable"),
    EventsUnreadable: (404, "events_unreadable"),
    EventsUnavailable: (503, "events_unavailable"),
    RegistryError: (409, "registry"),
    LlmopsError: (500, "internal"),
}
