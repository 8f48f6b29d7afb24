"""`${NAME}` in a URL of the configuration: a variable of the environment, so that secrets stay out of files."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

VARIABLE = re.compile(r"\$\{(\w+)\}")
#: a user and a password, or a parameter of the query: between `://` and `@`, and from `?` or `&` on if there is an `=`
_QUOTED = re.compile(r"://[^/?#]*@|[?&][^=&#]*=[^&#]*")


def filled(url: str, value: Callable[[str], str]) -> str:
    """Return the URL with what `value` gives for each name in the place of its `${NAME}`.

    The value is percent-encoded in a user, a password and a parameter, where its own "@", "/" or "&" would be taken for
    the URL's. In every other place it is a piece of the URL, a whole query (`?${SIGNED}`) included, and stays as it is.
    """
    quoted = [match.span() for match in _QUOTED.finditer(url)]

    def put(match: re.Match[str]) -> str:
        text = value(match[1])
        return quote(text, safe="") if any(start < match.start() < end for start, end in quoted) else text

    return VARIABLE.sub(put, url)
