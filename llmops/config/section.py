"""What all sections of the configuration have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict


class Unhashed:
    """Marks a field that says where or how fast, not what: it does not change an artifact's fingerprint."""


Where = Annotated[Path, Unhashed()]


class Section(BaseModel):
    """Base of all sections: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )

    def hashed(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON values: what a fingerprint is made of."""
        skip = {n for n, f in type(self).model_fields.items() if any(isinstance(m, Unhashed) for m in f.metadata)}
        return self.model_dump(mode="json", exclude=skip)


def check_web(value: str) -> None:
    """Make sure that it is an address of the web, without a secret."""
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("write a URL such as https://host:9200")
    if url.username or url.password:
        raise ValueError("leave user and password out of the URL; they belong in the environment")


def check_redis(value: str) -> None:
    """Make sure that it is a URL of Redis."""
    url = urlsplit(value)
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise ValueError("leave it as it is by default, or use a URL such as redis://host:6379/0")
    check_password(value)


def check_password(url: str) -> None:
    """Make sure that no secret stands in a URL: `${NAME}` names it."""
    password = urlsplit(url).password
    if password and not re.fullmatch(r"\$\{\w+\}", password):
        raise ValueError("write the password as ${NAME} and set NAME in the environment")
