"""The end of a process that is asked, see `child`: a line of JSON comes by the input, and one leaves by the output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO


def take_output() -> BinaryIO:
    """The output, for answers alone: what a library prints goes elsewhere, as it is no line for who reads them."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def answer_lines(answer: Callable[[Any], object]) -> None:
    """Answer each line of the input until it ends; an error ends the process."""
    out = take_output()
    for line in sys.stdin.buffer:
        out.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        out.flush()
