"""The base class of the configuration's sections, and checks of URLs."""

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict


class Unhashed:
    """Metadata of a field that is not part of an artifact's fingerprint: it says where work is done, or how fast."""


UnhashedPath = Annotated[Path, Unhashed()]


class Section(BaseModel):
    """The base of all sections: frozen, without unknown keys and infinite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )

    def get_hashed_values(self) -> dict[str, Any]:
        """Return the fields that influence the result, as JSON values, for a fingerprint."""
        skip = {n for n, f in type(self).model_fields.items() if any(isinstance(m, Unhashed) for m in f.metadata)}
        return self.model_dump(mode="json", exclude=skip)


def check_web_url(value: str) -> None:
    """Check that a value is a web address without user and password."""
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("write a URL such as https://host:9200")
    if url.username or url.password:
        raise ValueError("leave user and password out of the URL; they belong in the environment")


def check_redis_url(value: str) -> None:
    """Check that a value is a Redis URL without a password."""
    url = urlsplit(value)
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise ValueError("leave it as it is by default, or use a URL such as redis://host:6379/0")
    check_password(value)


def check_password(url: str) -> None:
    """Check that a URL has no plain password; `${NAME}` is allowed."""
    password = urlsplit(url).password
    if password and not re.fullmatch(r"\$\{\w+\}", password):
        raise ValueError("write the password as ${NAME} and set NAME in the environment")
