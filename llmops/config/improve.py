"""The section of improvement: which user feedback may train the model."""

from pydantic import Field

from llmops.config.section import Section


class Improve(Section):
    """Rules for feedback that may train. All other feedback waits for a reviewer."""

    trusted: tuple[str, ...] = Field(
        ("admin", "developer"), description="Roles whose corrections train without confirmation by others."
    )
    agreeing: int = Field(
        2, ge=2, description="Untrusted people who must give the same text before it trains without a review."
    )
    person_weekly: int = Field(
        20, ge=0, description="Most corrections of an untrusted person that count per week without a review."
    )
    window_days: int = Field(30, ge=1, description="Days before the end of an interval whose feedback is read.")
