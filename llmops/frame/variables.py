"""Environment variables in configured URLs, as `${NAME}`, so that secrets stay out of files."""

import re
from collections.abc import Callable
from urllib.parse import quote

VARIABLE = re.compile(r"\$\{(\w+)\}")
#: matches a user and password (`://…@`), or a query parameter (`?…=…`, `&…=…`)
_QUOTED = re.compile(r"://[^/?#]*@|[?&][^=&#]*=[^&#]*")


def fill_variables(url: str, value: Callable[[str], str]) -> str:
    """Return the URL with each `${NAME}` replaced by `value(NAME)`.

    The value is percent-encoded in a user, password or query parameter, because its "@", "/" or "&" would break the
    URL. In all other places, a whole query (`?${SIGNED}`) included, it is inserted unchanged.
    """
    quoted = [match.span() for match in _QUOTED.finditer(url)]

    def replace_variable(match: re.Match[str]) -> str:
        text = value(match[1])
        return quote(text, safe="") if any(start < match.start() < end for start, end in quoted) else text

    return VARIABLE.sub(replace_variable, url)
