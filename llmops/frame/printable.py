"""Printable text: a foreign text can neither steer a terminal nor forge a line of a log.

Questions, feedback, file names and owners of keys come from other people. A terminal obeys an escape sequence in them,
and a line break in them begins a line that looks like one of ours.
"""

import logging
import unicodedata
from typing import TextIO

_JOINERS = "\u00ad\u200c\u200d"  #: soft hyphen and joiners: parts of words and emoji that print nothing themselves


def escape_controls(text: str, keep: str = "") -> str:
    r"""Return a text with an escape, such as `\x1b`, for each character that is not printable and not in `keep`.

    Line breaks, marks that change the direction of writing, and halves of surrogate pairs are not printable.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter in keep or _is_printable(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )


class LineFormatter(logging.Formatter):
    """A formatter that writes a record on one line, and each line of its traceback with an indent below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- the name is logging's
        """Return the line of a record, without its traceback."""
        return escape_controls(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return a record with its traceback."""
        first, *traceback = super().format(record).split("\n")
        return "\n".join([first, *(f"    {escape_controls(line)}" for line in traceback)])


def configure_logging(
    format: str, datefmt: str | None = None, level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Log to a stream (default: stderr) by a `LineFormatter`. If logging is configured already, do nothing."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(format, datefmt))
    logging.basicConfig(level=level, handlers=[handler])


def _is_printable(letter: str) -> bool:
    return letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs"
