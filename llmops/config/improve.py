"""The section of improvement: which user feedback may train the model."""

from pydantic import Field

from llmops.config.section import Section


class Improve(Section):
    """Rules for feedback that may train. All other feedback waits for a reviewer."""

    trusted: tuple[str, ...] = Field(
        ("admin", "developer"), description="Roles whose corrections train without confirmation by others."
    )
    agreeing: int = Field(
        2, ge=2, description="Untrusted people who must say the same before it trains without a review."
    )
    agreement: float = Field(
        0.85,
        ge=0.5,
        le=1,
        description="Least F1 of the words of two corrections that say the same; numbers, names and negations must "
        "always match.",
    )
    same_question: float = Field(
        0.8, ge=0.5, le=1, description="Least Jaccard similarity of the words of two wordings of one question."
    )
    person_weekly: int = Field(
        20, ge=0, description="Most corrections of an untrusted person that count per week without a review."
    )
    person_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Largest share of one untrusted person in a week's unreviewed training data; if two people say "
        "the same, each counts half.",
    )
    flood: int = Field(
        20,
        ge=3,
        description="From this number of corrections, one person's are checked for a phrase or answer that most of "
        "them share. If there is one, all are held back.",
    )
    window_days: int = Field(30, ge=1, description="Days before the end of an interval whose feedback is read.")
