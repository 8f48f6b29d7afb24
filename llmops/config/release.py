"""The sections about releases: govern, release, deploy, push_to_hub.

`Unhashed` marks a field that is not part of an artifact's fingerprint: a change makes no earlier result stale.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmops.config.section import Section, Unhashed, UnhashedPath


class Govern(Section):
    """Scan training data and answers; a finding at or above the threshold fails the run."""

    entities: tuple[str, ...] = Field(
        ("EMAIL_ADDRESS", "CREDIT_CARD", "PHONE_NUMBER", "IBAN_CODE", "IP_ADDRESS", "US_SSN", "SECRET"),
        description="Personal data and secrets that may neither remain in training data nor appear in answers.",
    )
    fail_on: Literal["low", "medium", "high", "never"] = Field(
        "high", description="Lowest severity at which a single finding fails the run."
    )
    max_flagged_answers: float = Field(
        0.02, ge=0, le=1, description="Largest share of answers with a medium finding (lower bound of the interval)."
    )
    probes: bool = Field(True, description="Also judge the candidate's answers to the built-in OWASP probes.")
    probe_tokens: int = Field(48, ge=1, description="Longest answer to a probe, in tokens.")


class Release(Section):
    """Decide by the gate, write the version, move the aliases."""

    registry: UnhashedPath = Field(Path(), description="The local registry; empty: `<home>/registry`.")
    name: str = Field("support-bot", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the model.")
    primary: str = Field("token_f1", description="Metric that the gate decides on; one of the task's.")
    min_effect: float = Field(0.01, ge=0, description="The lower bound of the candidate's lead must exceed this.")
    guardrails: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: {"rouge_l": 0.02}, description="Metric → most by which it may be worse."
    )
    erased_margin: float = Field(
        0.05,
        ge=0,
        description="Most by which the primary metric and the guardrails may be worse in two cases: for a candidate "
        "that replaces a champion trained on a forgotten person, and for the champion's answers after a change of the "
        "documents.",
    )
    floors: dict[str, float] = Field(
        default_factory=lambda: {"token_f1": 0.1},
        description="Metric → value that the candidate must reach; for metrics of which less is better, a ceiling.",
    )
    min_items: int = Field(30, ge=1, description="With fewer test items the gate is inconclusive.")
    min_groups: int = Field(10, ge=2, description="With fewer topics among the test items the gate is inconclusive.")
    serve_documents: Literal["first", "gate"] = Field(
        "first",
        description="`first`: where nothing is served yet, the base model with documents becomes the first version. It "
        "replaces nothing, so the gate is not asked. `gate`: it has to pass the gate.",
    )
    canary: bool = Field(
        False, description="Try a version that passed the gate as a canary first, if there is a champion."
    )
    canary_share: float = Field(0.1, gt=0, lt=1, description="Share of the callers that such a canary answers.")
    canary_slow_ms: Annotated[float, Unhashed()] = Field(
        20_000, gt=0, description="Time in ms above which an answer in a trial counts as slow."
    )
    canary_requests: Annotated[int, Unhashed()] = Field(
        1000, ge=30, description="Requests that a canary must have answered before it is promoted."
    )
    canary_callers: Annotated[int, Unhashed()] = Field(
        5, ge=2, description="Callers on each side that a trial needs before its version is promoted."
    )
    canary_minutes: Annotated[float, Unhashed()] = Field(
        1440, ge=1, le=100_000, description="Deadline of a trial: a version with too little data is withdrawn."
    )
    ab_promote: Annotated[bool, Unhashed()] = Field(
        False, description="Promote a version automatically if users like it better in the DAG's A/B test."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_moved_keys(cls, values: Any) -> Any:
        for old, new in (("hub_repo", "repo"), ("private", "private")):
            if isinstance(values, dict) and old in values:
                raise ValueError(f"{old} is now push_to_hub.{new}: pushing is a stage of its own")
        return values


class Deploy(Section):
    """Prove that the serving app answers with the champion."""

    url: str = Field(
        "",
        description="Address of the serving app; with another `state.url`, a key in LLMOPS_API_KEY; empty: start one.",
    )
    question: str = Field("How can I contact you?", description="Question of the proof.")
    timeout_s: Annotated[float, Unhashed()] = Field(180.0, gt=0, description="Time the app may take to load it.")


class PushToHub(Section):
    """Copy the champion to the Hugging Face Hub: to `main` of a repository, and a tag."""

    repo: str = Field(
        "", pattern=r"^([\w.-]+/[\w.-]+)?$", description="Hub repository `owner/name`, with HF_TOKEN; empty: none."
    )
    private: bool = Field(True, description="Create the repository as private.")
