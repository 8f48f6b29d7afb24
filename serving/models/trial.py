"""A canary's trial in this process: who is answered by it, how it went, and when it is to be pulled."""

from __future__ import annotations

import hashlib
from typing import Any

from llmops.registry.aliases import Canary
from llmops.release.canary import Figures, Verdict, bound, compare, looks


def answered_by_canary(caller: str, canary: Canary) -> bool:
    """Whether the canary answers this caller, while no side is asked for.

    It is drawn from the key's prefix and the version: it stays the same for a caller as long as the version does, and a
    larger share adds callers and takes none away.
    """
    digest = hashlib.sha256(f"{caller}:{canary.version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < canary.share * 2**64


class CanaryTrial:
    """Counts how both sides answer, and looks now and then whether the canary is worse.

    Args:
        canary: the registry's entry of the trial.
        before: how the champion answered before the trial.
    """

    def __init__(self, canary: Canary, before: Figures) -> None:
        self.registered, self._before = canary, before
        self.canary, self.champion = Figures(), Figures()
        self.why = ""  #: what is wrong with the canary, once that is known; nobody is answered by it any more
        self._verdict: Verdict | None = None
        self._last_look = 0

    def look_if_due(self) -> bool:
        """Compare the two sides if another look is due after so many requests; True if the canary turns out worse."""
        look = looks(self.canary.requests)
        if self.why or look <= self._last_look:
            return False
        self._last_look = look
        verdict = compare(self.canary, self.champion, bound(look), self._before)
        if verdict.worse:
            self._verdict, self.why = verdict, verdict.text()
        return bool(verdict.worse)

    def numbers(self) -> dict[str, Any]:
        """The figures of the look that found the canary worse; if none did, what was counted so far."""
        if self._verdict:
            return self._verdict.numbers()
        return {"canary": self.canary.summary(), "champion": self.champion.summary()}
