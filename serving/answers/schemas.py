"""The bodies of requests and answers outside of `/v1`, and the parts that both APIs share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import Header
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serving.engines.base import FinishReason


def _check_text(value: str) -> str:
    if not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("holds half of a surrogate pair, which is no text")  # tokenizers fail on it
    return value


MAX_TOKENS = 2**31 - 1  #: highest length that may be asked for; answers end at `serving.max_new_tokens`
ValidStr = Annotated[str, AfterValidator(_check_text)]
ModelName = Annotated[ValidStr, Field(max_length=200)]  #: it stands in the request's event whole
#: the description of `ground`
GROUND_DESCRIPTION = "Answer from the documents, or not. Default: `grounding.enabled`, if an index is served."
#: Most characters of a feedback's texts together. Digits take the recognisers of personal data 50 µs each.
MAX_FEEDBACK_CHARS = 16_000
MAX_TEXTS = 64  #: of a request to classify
CONVERSATION_ID = "^[A-Za-z0-9._:-]{1,100}$"  #: the form of a conversation's id
StopString = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_check_text)]


class Sampling(BaseModel):
    """The settings of an answer's sampling and end."""

    temperature: float | None = Field(None, ge=0, le=2, description="0, the default: greedy, always the same answer.")
    top_p: float | None = Field(
        None, ge=0, le=1, description="Sample from the likeliest tokens of this probability; 0: greedy."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="Makes sampling repeatable.")
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = Field(
        None, description="The answer ends before the first of these."
    )


class GenerateRequest(Sampling):
    """A question to the model."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "How do I return an item?", "max_new_tokens": 60}]}
    )

    prompt: ValidStr | None = Field(None, description="The question.")
    input_id: ValidStr | None = Field(
        None, min_length=1, max_length=200, description="Instead of a prompt: an example of the online feature store."
    )
    max_new_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="Longest answer, in tokens; default 50.")
    max_length: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="Another name of max_new_tokens; give only one of both."
    )
    context: ValidStr = Field("", description="Text that the answer should rest on.")
    ground: bool | None = Field(None, description=GROUND_DESCRIPTION)
    stream: bool = Field(False, description="Send the answer piece by piece, as server-sent events.")


class Source(BaseModel):
    """A passage of a document that an answer rests on."""

    id: str
    title: str = Field(description="The headings above it; the source's name if the guard hides its words.")
    source: str
    location: str = Field(description="File or address.")
    position: str = Field(description="Position in the file.")
    licence: str
    snippet: str = Field(description="Its beginning; empty if the guard hides it.")
    score: float | None = Field(description="Cosine of question and passage; none if it was found by words alone.")


#: the sources of an answer; left out if `grounding.enabled` is off
Sources = Annotated[
    list[Source] | None,
    Field(
        description="The passages that it rests on; empty with a refusal, or if it is not from the documents.",
        exclude_if=lambda value: value is None,
    ),
]
FromDocuments = Annotated[
    bool | None,
    Field(
        description="False: the model answered without the documents. True: from the sources, or by a refusal.",
        exclude_if=lambda value: value is None,
    ),
]


class Usage(BaseModel):
    """Tokens of a request and its answer."""

    input_tokens: int
    output_tokens: int


class GenerateResponse(BaseModel):
    """The model's answer."""

    response: str
    id: str = Field(description="The request's id, which is also in the header X-Request-ID and in the event.")
    model: str = Field(description="Name of the model in the registry.")
    model_version: str
    usage: Usage
    finish_reason: FinishReason = Field(
        description="`length`: cut at the longest answer asked for; `content_filter`: cut by the guard."
    )
    sources: Sources = None
    from_documents: FromDocuments = None


class ClassifyRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "I lost my card"}]})

    text: ValidStr | Annotated[list[ValidStr], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description="A text, or a list of texts."
    )
    top_k: int = Field(5, ge=1, le=1000, description="Labels of each text in the answer, the likeliest first.")


class LabelProbability(BaseModel):
    """A label and its calibrated probability."""

    label: str
    probability: float


class ClassifiedText(BaseModel):
    """The label of one text."""

    label: str | None = Field(description="The likeliest label; null if it is not sure enough.")
    probability: float = Field(description="Of the likeliest label.")
    labels: list[LabelProbability]
    truncated: bool = Field(description="True if the model has read only the beginning of the text.")


class ClassifyResponse(BaseModel):
    """The labels of texts, in their order."""

    results: list[ClassifiedText]
    id: str = Field(description="The request's id, which is also in the header X-Request-ID and in the event.")
    model: str = Field(description="Name of the model in the registry.")
    model_version: str
    usage: Usage


class FeedbackRequest(BaseModel):
    """A rating, a comment or a correction of an answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"id": "…", "rating": "up"},
                {"id": "…", "rating": "down", "question": "Do you ship to Norway?", "answer": "Yes.",
                 "correction": "No, only within the European Union."},
            ]
        },
    )  # fmt: skip

    id: ValidStr = Field(max_length=100, description="The id of the answered request.")
    rating: Literal["up", "down"] | None = None
    comment: ValidStr = Field("", max_length=4000)
    correction: ValidStr = Field("", max_length=8000, description="What the answer should have been.")
    question: ValidStr = Field("", max_length=8000, description="The question; a correction needs it.")
    answer: ValidStr = Field("", max_length=8000, description="The answer that the model gave.")
    context: ValidStr = Field("", max_length=8000, description="The text that the answer should have rested on.")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if not (self.rating or self.comment.strip() or self.correction.strip()):
            raise ValueError("give a rating, a comment or a correction")
        if self.correction.strip() and not self.question.strip():
            raise ValueError("a correction needs the question")
        if not self.correction.strip() and (self.question or self.answer or self.context):
            raise ValueError("question, answer and context are only accepted with a correction")
        texts = self.comment, self.correction, self.question, self.answer, self.context
        if (total := sum(map(len, texts))) > MAX_FEEDBACK_CHARS:
            raise ValueError(f"the texts have {total} characters together; at most {MAX_FEEDBACK_CHARS} are allowed")
        return self


class FeedbackResponse(BaseModel):
    """The confirmation that the feedback is stored."""

    event: str = Field(description="Id of the event that holds it.")


class Problem(BaseModel):
    """The reason why a request was not answered."""

    detail: str = Field(description="The reason in words.")
    code: str = Field(description="The reason as a code for programs.")
    id: str = Field(description="The request's id.")


#: A side is `champion` or `canary`, which a canary's trial compares, or the name of a loaded version. If it is empty,
#: the owner of the caller's key decides, see `serving.models.trial`.
SideDep = Annotated[
    str,
    Header(
        alias="X-Llmops-Side", max_length=40, description="`champion` or `canary`: be answered by this side of a trial."
    ),
]

#: The conversation that a request is a turn of. It joins the events of its requests and ratings.
ConversationDep = Annotated[
    str | None,
    Header(alias="X-Session-ID", pattern=CONVERSATION_ID, description="Id of the conversation, in the events."),
]
