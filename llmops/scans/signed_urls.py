"""Keep the queries of URLs out of logs and errors: uploads to the Hub, and downloads of its large files, are signed.

Whoever has such a URL may use it until it expires, without a token.
"""

from __future__ import annotations

import logging
import re

_QUERY = re.compile(r"(://[^\s?\"'<>]+)\?[^\s\"'<>]+")
_LOGGERS = ("huggingface_hub.utils._http", "huggingface_hub.file_download", "httpx2")  #: those that write URLs down


def unsigned(text: str) -> str:
    """A text with its URLs, but without their queries."""
    return _QUERY.sub(r"\1", text)


def keep_out_of_logs() -> None:
    """Let what asks the Hub log URLs without their queries, from now on; doing it again changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    record.msg, record.args = unsigned(record.getMessage()), ()
    return True
