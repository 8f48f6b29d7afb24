"""Personal data taken out of texts in a process of its own: some take seconds, and all threads of one share a GIL.

It is started for the first text, which takes some seconds, and has 150 MB. It is this module, run as a program.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from llmops.child.answer import answer_lines
from llmops.child.child import Child
from llmops.errors import ChildFailed
from serving.errors import RedactionFailed
from serving.places import Places

MOST_WAITING = 32  #: requests
MOST_S = 30.0  #: for the texts of a request; those that a request may have take 5 s at most


class Redaction:
    """Takes the texts of one request after the other.

    Args:
        entities: what is taken out, names as in `llmops.scans.pii.ENTITIES`.
    """

    def __init__(self, entities: Sequence[str]) -> None:
        self._entities, self._places = list(entities), Places(MOST_WAITING)
        self._thread = ThreadPoolExecutor(1, "redaction")  # the child answers one at a time
        self._child = Child(__name__, environ={"TRANSFORMERS_VERBOSITY": "error"}, most_s=MOST_S)

    async def clean(self, texts: Sequence[str], caller: str) -> list[str]:
        """The texts, with marks in place of what is taken out.

        Args:
            texts: of one request.
            caller: prefix of its key.

        Raises:
            QueueFull: if too many wait, of all keys or of this one.
            RedactionFailed: if the process ends, or takes too long.
        """
        if not texts:
            return []
        asked = [list(texts), self._entities]
        with self._places.take(caller):
            try:
                cleaned: list[str] = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._child.ask, asked
                )
            except ChildFailed as error:
                raise RedactionFailed from error
        return cleaned

    def close(self) -> None:
        """End the process; blocks."""
        self._child.close()  # first: the thread may wait for an answer that does not come
        self._thread.shutdown(cancel_futures=True)


def main() -> None:
    """Answer each line of the input, which has texts and entities, with a line of redacted texts."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would load it where it is there: 300 MB, unused
    from llmops.scans.pii import redact_all

    answer_lines(lambda asked: [found.text for found in redact_all(*asked)])


if __name__ == "__main__":
    main()
