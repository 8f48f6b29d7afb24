"""What the sections demand of URLs: no secret stands in one, `${NAME}` names it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def check_web(value: str) -> None:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("write a URL such as https://host:9200")
    if url.username or url.password:
        raise ValueError("leave user and password out of the URL; they belong in the environment")


def check_redis(value: str) -> None:
    url = urlsplit(value)
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise ValueError("leave it as it is by default, or use a URL such as redis://host:6379/0")
    check_password(value)


def check_password(url: str) -> None:
    password = urlsplit(url).password
    if password and not re.fullmatch(r"\$\{\w+\}", password):
        raise ValueError("write the password as ${NAME} and set NAME in the environment")
