"""The sections about examples: annotate, and features for the Feast feature stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from llmops.config.section import Section, Unhashed, UnhashedPath, check_password, check_redis_url


class Template(Section):
    """A question and an answer made from the fields of a structured row: `{name}` is replaced by its value."""

    question: str = Field(min_length=1, description="E.g. `What does the {name} cost?`; nested fields as `{a.b}`.")
    answer: str = Field(min_length=1, description="A row in which a named field is empty makes no example.")
    context: str = Field("", description="Text that contains the answer.")
    group: str = Field("", description="Topic key; empty groups by the answer.")


class Annotate(Section):
    """Turn documents into `[Context] [Question] [Answer]` examples and split them."""

    templates: dict[str, tuple[Template, ...]] = Field(
        default_factory=dict, description="Structured source → templates of the questions that its rows answer."
    )
    redact: tuple[str, ...] = Field(
        ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "SECRET"),
        description="Personal data and secrets that are replaced by a `<TYPE>` mark before training.",
    )
    max_question_chars: int = Field(600, gt=0, description="Drop longer questions: they are several in one.")
    max_answer_sentences: int = Field(0, ge=0, description="Cut answers to this many sentences; 0 keeps them whole.")
    max_answer_chars: int = Field(1200, gt=0, description="Drop answers longer than this, before they are cut.")
    max_context_chars: int = Field(1200, ge=0, description="Cut contexts to this many characters.")
    split_by: Literal["group", "wording", "source"] = Field(
        "group",
        description="`group`: a topic is in one split, and the test has unseen topics. `wording`: the test has other "
        "wordings of topics that are trained on, too. `source`: the test is all of `test_sources`.",
    )
    validation: float = Field(0.1, gt=0, lt=1, description="Share of groups (or wordings) for validation.")
    test: float = Field(0.22, gt=0, lt=1, description="Share of groups (or wordings) for the frozen test.")
    test_sources: tuple[str, ...] = Field((), description="Take test items from these sources only; empty: from all.")
    out_of_scope: str = Field(
        "",
        description="For `evaluate.task: classification`: the label of texts that belong to no label, such as `oos`. "
        "The model does not learn it; such texts choose and measure the threshold below which no label is given.",
    )
    min_test_items: int = Field(60, ge=1, description="With fewer test items nothing is trained: docs/grounding.md.")
    seed: int = Field(0, description="Seed of the assignment of groups to splits.")

    @field_validator("out_of_scope")
    @classmethod
    def _strip_label(cls, value: str) -> str:
        return value.strip()  # the labels of rows are stripped, too

    @model_validator(mode="after")
    def _check_shares(self) -> Annotate:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave a share for training: less than 1")
        if self.split_by == "source" and not self.test_sources:
            raise ValueError("split_by: source needs test_sources")
        return self


class Features(Section):
    """Settings for tokenising examples and storing them in Feast. `Unhashed` ones do not change an artifact's name."""

    repo: UnhashedPath = Field(
        Path("feature_repo"),
        description="The Feast feature repository; a relative path is relative to this project's root folder.",
    )
    store: UnhashedPath = Field(Path(), description="Folder of the SQLite online store; unset: `<home>/feast`.")
    online: str = Field(
        "sqlite",
        description="Online store: `sqlite`, or `redis://:${REDIS_PASSWORD}@host:6379/0` (`rediss://` with TLS); "
        "${VAR} is read from the environment.",
    )
    registry: str = Field(
        "",
        description="SQLAlchemy URL of Feast's registry, e.g. `postgresql+psycopg://feast:${PGPASSWORD}@host/feast`; "
        "empty: a file in each artifact.",
    )
    max_tokens: int = Field(512, ge=16, description="Longer examples lose part of their context, never of the answer.")
    online_batch: Annotated[int, Unhashed()] = Field(500, ge=1, description="Examples per write to the online store.")

    @field_validator("online", "registry")
    @classmethod
    def _check_url(cls, value: str, info: ValidationInfo) -> str:
        if value == Features.model_fields[str(info.field_name)].default:
            return value
        if info.field_name == "online":
            check_redis_url(value)
        elif not urlsplit(value).scheme:
            raise ValueError("use an SQLAlchemy URL such as postgresql+psycopg://host/feast, or leave it empty")
        check_password(value)
        return value
