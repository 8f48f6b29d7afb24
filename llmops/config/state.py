"""The sections of the database and of retention."""

from typing import Annotated

from pydantic import Field, field_validator

from llmops.config.section import Section, Unhashed, check_password


class State(Section):
    """The database with aliases, decisions, trials, keys and audit."""

    url: Annotated[str, Unhashed()] = Field(
        "",
        description="URL of the database: `postgresql://llmops:${STATE_PASSWORD}@host/llmops` for several machines, or "
        "`sqlite:///<file>` on a local disk; ${VAR} is read from the environment. Empty: `<home>/state.db`.",
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        scheme = value.partition("://")[0].partition("+")[0]
        if value and (scheme not in ("sqlite", "postgresql") or value in ("sqlite://", "sqlite:///")):
            raise ValueError("use a URL such as postgresql://llmops:${STATE_PASSWORD}@host/llmops or sqlite:///<file>")
        if value and not (scheme == "sqlite" and not value.startswith("sqlite:///")):
            check_password(value)
        return value


class Retention(Section):
    """The data that `llmops gc` keeps. Records, cards and decisions always stay."""

    runs: int = Field(3, ge=1, description="Newest artifacts of each stage that keep their data, with their inputs.")
    days: float = Field(
        7,
        ge=1,
        description="Days that artifacts made or used by a run keep their data: more than the longest run takes.",
    )
    versions: int = Field(
        5, ge=1, description="Newest model versions that keep their weights; versions with an alias always do."
    )
    log_days: float = Field(30, ge=1, description="Days that the logs of Airflow's tasks are kept.")
    daily: bool = Field(True, description="Remove unneeded data at the end of the daily run; off: only by `llmops gc`.")
