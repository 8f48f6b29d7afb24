"""`${NAME}` in a text of the configuration: a variable of the environment, so that secrets stay out of files."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

VARIABLE = re.compile(r"\$\{(\w+)\}")
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*(?=@)")  #: who asks, in a URL: up to the last "@" before its path


def filled(text: str, value: Callable[[str], str]) -> str:
    """The text with what `value` gives for each name in the place of its `${NAME}`.

    Before the "@" of a URL a value is quoted: a password's own "@" or "/" would be taken for the URL's. Elsewhere, as
    in an address of mail, it stands as it is.
    """
    quoted = [range(*match.span()) for match in _USERINFO.finditer(text)]

    def put(match: re.Match[str]) -> str:
        found = value(match[1])
        return quote(found, safe="") if any(match.start() in userinfo for userinfo in quoted) else found

    return VARIABLE.sub(put, text)
