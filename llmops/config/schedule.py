"""The section of the schedule: how long stages may take, and when a run is late."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llmops.config.section import Section, Unhashed

#: What has a time limit: every stage, and the work of the other DAGs that computes.
Limited = Literal[
    "collect", "clean", "index", "annotate", "select", "features", "tune", "train", "compress", "evaluate", "govern",
    "release", "deploy", "push_to_hub", "batch", "review",
]  # fmt: skip

LONG: dict[Limited, float] = {"tune": 1440, "train": 1440, "batch": 1440}  #: minutes, of what may take a day


class Schedule(Section):
    """How long a stage may take, and when a run is late. Airflow reads it anew within minutes, without a restart."""

    timeout_minutes: Annotated[float, Unhashed()] = Field(
        240, ge=0, description="How long one try of a stage may take; its processes are killed then. 0: any time."
    )
    timeouts: Annotated[dict[Limited, Annotated[float, Field(ge=0)]], Unhashed()] = Field(
        default_factory=lambda: LONG, description="The same in minutes for single stages, and for `batch` and `review`."
    )
    late_hours: Annotated[float, Unhashed()] = Field(
        36, ge=0, description="Hours after which a run of the pipeline that has not ended raises an alert; 0: never."
    )

    @field_validator("timeouts", mode="before")
    @classmethod
    def _beside_the_long_ones(cls, value: Any) -> Any:
        """Who names one stage means that one: the others keep what they have by default."""
        return {**LONG, **value} if isinstance(value, dict) else value

    def seconds(self, name: str) -> float:
        """How long one try of a stage may take; 0: any time."""
        limits = {str(known): minutes for known, minutes in self.timeouts.items()}
        return 60 * limits.get(name, self.timeout_minutes)
