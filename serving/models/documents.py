"""The documents that answers are grounded in: the served index, kept open and followed.

Another index is opened beside the one there is and takes its place between two searches. It is opened again when its
files have changed, after an erasure. What cannot be opened is not served: what was open answers for `GRACE_S` more, in
which an erasure is done, and no longer, since it may hold what has been deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmops.artifacts import RECORD
from llmops.config import Grounding
from llmops.data.index.ranking import Index
from llmops.errors import LlmopsError, StateError
from llmops.grounding.retriever import Found, Retriever
from llmops.registry.indexes import served_index
from llmops.registry.registry import Registry
from serving.errors import NoDocuments
from serving.models.fair_lock import FairLock

log = logging.getLogger(__name__)

GRACE_S = 60.0
NONE = "No index of documents is served; the pipeline's stage release publishes one."

_Files = tuple[tuple[str, int, int], ...]  # name, inode, time of change


class Documents:
    """Finds passages in the index that is served. All methods but `stop` run in the event loop's thread.

    Args:
        registry: says which index is served.
        config: what is good enough, and how much of it.
        poll_s: seconds between two looks at what is served.
        opening: opens an index, see `Retriever`.
    """

    def __init__(self, registry: Registry, config: Grounding, poll_s: float, opening: Callable[[Path], Index]) -> None:
        self._registry, self._config, self._poll_s, self._opening = registry, config, poll_s, opening
        self._open: Retriever | None = None
        self._files: _Files = ()  # of what is open
        self._error: Exception | None = None
        self._failed_at = 0.0
        self._unsearched = False  # the last search failed
        self.opening = config.enabled  #: whether answers are to rest on documents that are not looked for yet
        self._lock = FairLock()
        self._thread = ThreadPoolExecutor(1, "documents")  # SQLite and the vectors' process answer one at a time
        self._task: asyncio.Task[None] | None = None

    @property
    def index(self) -> str:
        """The fingerprint of the index that is open; empty: there is none."""
        return self._open.folder.name if self._open else ""

    def reason(self) -> str:
        """Why nothing is found, or what is wrong with a newer index; anybody may read it. Empty if all is well."""
        if self._error:
            return f"The index of documents cannot be opened ({type(self._error).__name__}); the log says why."
        if self.opening:
            return "The index of documents is being opened."
        if self._open and self._unsearched:
            return "The index of documents could not be searched when it was last asked; the log says why."
        return "" if self._open else NONE

    async def find(self, question: str, caller: str, quoting: bool = False) -> tuple[str, Found]:
        """The index that was searched, and what it says of a question.

        Args:
            question: what was asked.
            caller: prefix of the key that asks; keys take turns.
            quoting: whether the answer is to be quoted, see `Retriever.look`.

        Raises:
            NoDocuments: if there is no index, or it cannot be searched now.
        """
        async with self._lock.turn(caller):
            opened = self._open
            if opened is None:
                raise NoDocuments(f"{self.reason()} Send `ground: false` for an answer without documents.")
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._thread, opened.look, question, quoting)
                self._unsearched = False
            except LlmopsError as error:
                self._unsearched = True
                log.exception("The index %s cannot be searched", opened.folder.name)
                raise NoDocuments("The documents cannot be searched now; the log says why.") from error
            return opened.folder.name, found

    def start(self) -> None:
        """Begin to follow what is served."""
        self._task = asyncio.create_task(self._watch(), name="documents")

    async def stop(self) -> None:
        """End following, and give back what is open."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._put(None)
        await asyncio.to_thread(self._thread.shutdown)

    async def _watch(self) -> None:
        while True:
            try:
                await self._follow()
                self._error = None
            except Exception as error:
                if not (isinstance(error, StateError) and self._open):  # what is open is still what was served
                    if repr(error) != repr(self._error):
                        log.exception("The index of documents cannot be opened")
                    self._failed_at = self._failed_at if self._error else time.monotonic()
                    self._error = error
            if self._error and self._open and time.monotonic() > self._failed_at + GRACE_S:
                await self._put(None)
            self.opening = False
            await asyncio.sleep(self._poll_s)

    async def _follow(self) -> None:
        """Look once at what is served, and open it if it is another one or has changed."""
        folder = await asyncio.to_thread(served_index, self._registry)
        files = await asyncio.to_thread(_files, folder) if folder else ()
        if folder and not (self._open and self._open.folder == folder and self._files == files):
            opened = await asyncio.to_thread(self._opened, folder)
            await self._put(opened)
        elif not folder:
            await self._put(None)
        self._files = files

    def _opened(self, folder: Path) -> Retriever:
        """An index that is open; where all are asked, its vectors' process is there, too, before the first asks."""
        opened = Retriever(folder, self._config, self._opening)
        try:
            if self._config.enabled:
                opened.look("What is in the documents?")
        except BaseException:
            opened.close()
            raise
        return opened

    async def _put(self, opened: Retriever | None) -> None:
        """Answer from this index from now on; whoever searches the one before has its result first."""
        async with self._lock.turn(""):
            old, self._open = self._open, opened
            self._unsearched = False
        if old:
            await asyncio.to_thread(old.close)


def _files(folder: Path) -> _Files:
    """What tells one state of a folder from another: an erasure puts other files in the place of its own. The record is
    the artifact's, too, which every run touches."""
    kept = (path for path in sorted(folder.iterdir()) if path.name[0] != "." and path.name != RECORD)
    found = ((path.name, path.stat()) for path in kept)
    return tuple((name, stat.st_ino, stat.st_mtime_ns) for name, stat in found)
