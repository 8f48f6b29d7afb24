"""The section of the Feast feature stores."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from llmops.config.section import Section, Unhashed, UnhashedPath, check_password, check_redis_url


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
