"""How processor time grows with a text: a test of hostile texts that no busy machine decides."""

import time
from collections.abc import Callable


def assert_linear(call: Callable[[str], object], unit: str, longest: int = 50_000) -> None:
    """Fail if 16 times the text costs over 64 times the processor time; a quadratic search costs 256 times as much.

    Args:
        call: is given texts of repeated `unit`.
        unit: one or several characters.
        longest: characters of the longer text. Linear work on it should take some milliseconds.
    """

    def cost(length: int) -> float:
        text, seconds = (unit * length)[:length], []
        for _ in range(3):
            started = time.thread_time()
            call(text)
            seconds.append(time.thread_time() - started)
        return min(seconds)

    call(unit)  # what is made only once
    short, long = cost(longest // 16), cost(longest)
    assert long < 64 * max(short, 0.0005), f"{unit!r}: {short} s for {longest // 16} characters, {long} s for {longest}"
