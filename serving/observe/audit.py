"""Decisions about access, as events of the dataset `llmops.audit`: who was admitted, who was refused, and why.

The first decision of a kind (address, reason, key, route) becomes an event within a second. The same decisions of the
following minute are counted in one more event, so that a flood does not fill the disk. The sum of `llmops.audit.count`
is the number of decisions. A killed process loses at most a second of first decisions and a minute of counts. A request
with its own event (an answer to a known key) gets no second event here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import Scope

from llmops.access.roles import Key
from llmops.events.datasets import AUDIT
from llmops.events.events import emit_all, format_timestamp

log = logging.getLogger(__name__)

PERIOD_S = 60.0  #: how long decisions of one kind are counted before they become an event
FLUSH_S = 1.0
MAX_KINDS = 200  #: most kinds at a time; further decisions are counted by reason alone

DecisionKind = tuple[str, str, str, str]  #: address, reason, prefix of the key, route


@dataclass(slots=True)
class _KindCount:
    """The decisions of one kind after the first one."""

    fields: dict[str, Any]
    first_at: float  #: time of the first decision, by the clock
    count: int = 0
    start: str = ""  #: time of the second decision
    end: str = ""


@dataclass(slots=True)
class Audit:
    """The collected decisions, which are written to the events folder. All methods are called in the event loop."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    _counts: dict[DecisionKind, _KindCount] = field(default_factory=dict)
    _ready: list[dict[str, Any]] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    def record_decision(self, scope: Scope, reason: str, key: Key | None = None) -> None:
        """Note a decision. `reason` is `allowed` or why not. `key` is given if its secret was right."""
        address, route = get_client_address(scope), str(getattr(scope.get("route"), "path", scope["path"]))
        kind = (address, reason, key.prefix if key else "", route)
        fields = {
            "event.action": "access",
            "event.category": ["authentication"],
            "event.outcome": "success" if reason == "allowed" else "failure",
            "event.reason": reason,
        }
        if kind not in self._counts and len(self._counts) + len(self._ready) >= MAX_KINDS:
            kind = ("", reason, "", "")
        else:
            fields.update(format_client_fields(address))
            fields["url.path"] = route
            fields["http.request.method"] = scope["method"]
            if key:
                fields.update({"llmops.key.prefix": key.prefix, "user.roles": [key.role]})
        now = format_timestamp()
        if count := self._counts.get(kind):
            count.count += 1
            count.start, count.end = count.start or now, now
        else:
            self._counts[kind] = _KindCount(fields, self.clock())
            first = {"@timestamp": now, "http.request.id": scope["state"]["id"], "llmops.audit.count": 1}
            self._ready.append({**fields, **first})

    def start(self) -> None:
        """Start writing."""
        self._task = asyncio.create_task(self._write(), name="audit")

    def record_limits_store(self, reason: str) -> None:
        """Note that the shared store of the limits does not answer, with the reason, or, with "", answers again."""
        fields = {"event.action": "limits_store", "event.outcome": "failure" if reason else "success"}
        self._ready.append({**fields, "@timestamp": format_timestamp(), "event.reason": reason or "it answers again"})

    async def stop(self) -> None:
        """Write the decisions that are left."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.flush(0.0)

    async def flush(self, period_s: float = PERIOD_S) -> None:
        """Write first decisions, and counts that are at least `period_s` old. If that fails, keep them for later."""
        old = {kind: c for kind, c in self._counts.items() if self.clock() - c.first_at >= period_s}
        counts = [
            {**c.fields, "@timestamp": c.end, "event.start": c.start, "event.end": c.end, "llmops.audit.count": c.count}
            for c in old.values()
            if c.count
        ]
        events = [*self._ready, *counts]
        unwritten, self._ready = self._ready, []
        for kind in old:
            del self._counts[kind]
        if not events:
            return
        try:
            await asyncio.shield(asyncio.to_thread(emit_all, self.folder, AUDIT, events))
        except Exception:
            log.exception("%d events about access cannot be written; they are kept", len(events))
            self._ready = [*unwritten, *counts, *self._ready]

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()


def get_client_address(scope: Scope) -> str:
    """Return the client's address as the server sees it; empty if unknown."""
    return str(scope["client"][0]) if scope.get("client") else ""


def format_client_fields(address: str) -> dict[str, str]:
    """Return the address as fields of an event. Only IP addresses go into `client.ip`."""
    try:
        return {"client.ip": str(ipaddress.ip_address(address))}
    except ValueError:
        return {"client.address": address[:100]} if address else {}
