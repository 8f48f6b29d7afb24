"""Removal of URL queries from logs and errors. Uploads to the Hub and downloads of its large files use signed URLs.

Anyone with a signed URL can use it until it expires, without a token.
"""

import logging
import re

_QUERY = re.compile(r"(://[^\s?\"'<>]+)\?[^\s\"'<>]+")
_LOGGERS = ("huggingface_hub.utils._http", "huggingface_hub.file_download", "httpx2")  #: loggers that write URLs


def remove_queries(text: str) -> str:
    """Return a text with the queries of its URLs removed."""
    return _QUERY.sub(r"\1", text)


def keep_queries_out_of_logs() -> None:
    """Remove queries from URLs that the Hub's clients log, from now on. A repetition changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_remove_from_record)


def _remove_from_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = remove_queries(record.getMessage()), ()
    return True
