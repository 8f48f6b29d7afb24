"""`${NAME}` in a URL of the configuration: a variable of the environment, so that secrets stay out of files."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

VARIABLE = re.compile(r"\$\{(\w+)\}")


def filled(url: str, value: Callable[[str], str]) -> str:
    """The URL with what `value` gives for each name in the place of its `${NAME}`.

    Before the "@" a value is quoted: a password's own "@" or "/" would be taken for the URL's.
    """
    userinfo_end = url.rfind("@")

    def put(match: re.Match[str]) -> str:
        text = value(match[1])
        return quote(text, safe="") if match.end() <= userinfo_end else text

    return VARIABLE.sub(put, url)
