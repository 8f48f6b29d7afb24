"""The section of improvement: which of the things that users say may train the model."""

from __future__ import annotations

from pydantic import Field

from llmops.config.section import Section


class Improve(Section):
    """What may train of what users say. All else waits for a person."""

    trusted: tuple[str, ...] = Field(
        ("admin", "developer"), description="Roles whose corrections train without anybody else's word."
    )
    agreeing: int = Field(
        2, ge=2, description="Other people whose corrections must say the same before they train without a review."
    )
    agreement: float = Field(
        0.85,
        ge=0.5,
        le=1,
        description="F1 of the words from which two corrections say the same; numbers, names and negations always "
        "must.",
    )
    same_question: float = Field(
        0.8, ge=0.5, le=1, description="Jaccard similarity of the words from which two questions are one."
    )
    person_weekly: int = Field(
        20, ge=0, description="Corrections of one person without trust that count in a week, reviews aside."
    )
    person_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Largest share of one person without trust in what trains of a week without a review; of what "
        "two say, each has half.",
    )
    flood: int = Field(
        20,
        ge=3,
        description="From so many corrections on, one person's are looked at for a phrase or an answer that most of "
        "them share: all of them are held back then.",
    )
    window_days: int = Field(30, ge=1, description="Days before the end of an interval whose feedback is read.")
