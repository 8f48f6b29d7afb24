"""The sections that decide what users get: govern, release, deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llmops.config.section import Section, Unhashed, Where


class Govern(Section):
    """Scan training data and answers; a finding above the threshold fails the run."""

    entities: tuple[str, ...] = Field(
        ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "SECRET"),
        description="Personal data and secrets that may neither remain in training data nor appear in answers.",
    )
    fail_on: Literal["low", "medium", "high", "never"] = Field(
        "high", description="Lowest severity of which a single finding fails the run."
    )
    max_flagged_answers: float = Field(
        0.02, ge=0, le=1, description="Largest share of answers with a medium finding; above it is its whole interval."
    )
    probes: bool = Field(True, description="Judge the candidate's answers to the built-in OWASP probes too.")
    probe_tokens: int = Field(48, ge=1, description="Longest answer to a probe, in tokens.")


class Release(Section):
    """Decide by the gate, write the version, move the alias, push."""

    registry: Where = Field(Path(), description="The local registry; empty: `<home>/registry`.")
    name: str = Field("support-bot", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the model.")
    primary: str = Field("token_f1", description="Metric that the gate decides on.")
    min_effect: float = Field(0.01, ge=0, description="The interval's lower bound must be above this difference.")
    guardrails: dict[str, float] = Field(
        default_factory=lambda: {"rouge_l": 0.02}, description="Metrics that may not be worse by more than this margin."
    )
    floors: dict[str, float] = Field(
        default_factory=lambda: {"token_f1": 0.1}, description="Absolute values below which nothing is promoted."
    )
    min_items: int = Field(30, ge=1, description="With fewer test items the gate is inconclusive.")
    min_groups: int = Field(10, ge=2, description="With fewer topics among the test items the gate is inconclusive.")
    bootstrap: int = Field(5000, ge=100, description="Resamples of the paired bootstrap.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Confidence of the intervals.")
    seed: int = Field(0, description="Seed of the bootstrap.")
    hub_repo: str = Field("", description="Hub repository `owner/name`; pushed to when HF_TOKEN is set.")
    private: bool = Field(True, description="Create the Hub repository as private.")


class Deploy(Section):
    """Prove that the serving app answers with the champion."""

    url: str = Field("", description="The serving app. Empty: one is started for the proof and stopped again.")
    question: str = Field("How can I contact you?", description="What the proof asks.")
    timeout_s: Annotated[float, Unhashed()] = Field(180.0, gt=0, description="How long the app may take to load it.")
