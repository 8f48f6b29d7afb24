"""The section of the schedule: time limits of stages, and when a run is late."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llmops.config.section import Section, Unhashed

#: work with a time limit: all stages, and heavy tasks of other DAGs
TimedTask = Literal[
    "collect", "clean", "index", "annotate", "select", "features", "tune", "train", "compress", "evaluate", "govern",
    "release", "deploy", "push_to_hub", "batch", "review",
]  # fmt: skip

DEFAULT_TIMEOUTS: dict[TimedTask, float] = {
    "tune": 1440,
    "train": 1440,
    "batch": 1440,
}  #: minutes of work that may take a day


class Schedule(Section):
    """Time limits of stages, and when a run is late. Airflow rereads it within minutes, without a restart."""

    timeout_minutes: Annotated[float, Unhashed()] = Field(
        240, ge=0, description="Time limit of one try of a stage, after which its processes are killed. 0: none."
    )
    timeouts: Annotated[dict[TimedTask, Annotated[float, Field(ge=0)]], Unhashed()] = Field(
        default_factory=lambda: DEFAULT_TIMEOUTS,
        description="Time limits in minutes of single stages, and of `batch` and `review`.",
    )
    late_hours: Annotated[float, Unhashed()] = Field(
        36, ge=0, description="Hours after which an unfinished run of the pipeline raises an alert; 0: never."
    )

    @field_validator("timeouts", mode="before")
    @classmethod
    def _merge_defaults(cls, value: Any) -> Any:
        return {**DEFAULT_TIMEOUTS, **value} if isinstance(value, dict) else value

    def get_limit_s(self, name: str) -> float:
        """Return the time limit of one try of a stage; 0: none."""
        limits = {str(known): minutes for known, minutes in self.timeouts.items()}
        return 60 * limits.get(name, self.timeout_minutes)
