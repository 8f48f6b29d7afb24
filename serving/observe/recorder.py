"""Puts the events of requests into the spool: those that end at the same time share one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.monitoring.datasets import SERVING
from llmops.monitoring.events import build
from llmops.monitoring.spool import Spool


@dataclass(slots=True, eq=False)
class _Batch:
    events: list[dict[str, Any]] = field(default_factory=list)
    committed: bool = False
    error: Exception | None = None


class Recorder:
    """Group commit: while one batch goes to disk the next one gathers, so that a commit's wait is shared.

    Args:
        folder: the events folder, `config.events`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = _Batch()
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "events")  # one, for the connection belongs to its thread
        self._spool: Spool | None = None

    async def record(self, fields: Mapping[str, Any]) -> None:
        """Have an event in the spool when this returns; see `events.emit`.

        Raises:
            Exception: what kept the batch from being committed, a full disk say.
        """
        mine = self._next
        mine.events.append(build(SERVING, fields))
        async with self._writing:
            if not mine.committed:  # the first of a batch commits for all of it
                self._next = _Batch()
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, mine.events)
                except Exception as error:
                    mine.error = error
                mine.committed = True
        if mine.error:
            raise mine.error

    def _commit(self, events: list[dict[str, Any]]) -> None:
        spool = self._spool = self._spool or Spool(self._folder)  # kept open, which makes a commit eight times as fast
        try:
            spool.append(events)
        except Exception:
            self._spool = None  # whatever is wrong with it, the next commit opens another
            spool.close()
            raise
