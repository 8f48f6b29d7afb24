"""Foreign text cannot steer a terminal, nor forge a line of the log."""

import io
import logging
import sys

import pytest

from llmops.frame.printable import LineFormatter, escape_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    {
        "plain": ("Grüße, 10\u00a0€ 👩\u200d🚀 می\u200cخواهم", "Grüße, 10\u00a0€ 👩\u200d🚀 می\u200cخواهم"),
        "escape sequence": ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        "escape of eight bits": ("\x9b2J", r"\x9b2J"),
        "line breaks": ("a\r\nb\u2028c\x85d", r"a\r\nb\u2028c\x85d"),
        "direction of writing": ("txt\u202egpj", r"txt\u202egpj"),
        "half of a pair": ("\ud800", r"\ud800"),
    }.values(),
)  # fmt: skip
def test_only_printable_characters_stay(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_kept_characters_stay() -> None:
    assert escape_controls("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_no_text_forges_a_line_of_a_log() -> None:
    """Neither in a message nor in the error of a traceback, which another handler may have formatted before."""
    stream, log = io.StringIO(), logging.Logger("test")
    foreign = "a.pdf\n12:00:00 forged \x1b[2J"
    for formatter in (logging.Formatter(), LineFormatter("12:00:00 %(message)s")):
        handler = logging.StreamHandler(stream if isinstance(formatter, LineFormatter) else io.StringIO())
        handler.setFormatter(formatter)
        log.addHandler(handler)
    log.warning("quarantined %s", foreign)
    try:
        raise ValueError(foreign)
    except ValueError:
        log.warning("failed", exc_info=sys.exc_info())
    first, second, *traceback = stream.getvalue().splitlines()
    assert first == r"12:00:00 quarantined a.pdf\n12:00:00 forged \x1b[2J" and second == "12:00:00 failed"
    assert traceback[-1] == r"    12:00:00 forged \x1b[2J" and all(line.startswith("    ") for line in traceback)
