"""Decisions about access, as events of the dataset `llmops.audit`: who was let in, who was not, and why.

The first decision of a kind (address, reason, key, route) is an event within a second; the same ones of the minute
after it are counted and make one more event, so that a flood fills no disk. The sum of `llmops.audit.count` is the
number of decisions. A process that is killed loses what it had not yet written: at most a second of firsts and a
minute of counts. A request that becomes an event of its own (an answer to a known key) is not written down twice.
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
from llmops.monitoring.datasets import AUDIT
from llmops.monitoring.events import emit_all, timestamp

log = logging.getLogger(__name__)

PERIOD_S = 60.0  #: how long the same decisions are counted before they make an event
FLUSH_S = 1.0
MOST_KINDS = 200  #: kinds that are told apart at a time; the others are counted by reason alone

DecisionKind = tuple[str, str, str, str]  #: address, reason, prefix of the key, route


@dataclass(slots=True)
class _Counted:
    """The decisions of one kind since the first one of it."""

    fields: dict[str, Any]
    begun: float
    count: int = 0
    start: str = ""  #: when the first one after the first was
    end: str = ""


@dataclass(slots=True)
class Audit:
    """Collects decisions and writes them to the events folder. All methods are called in the event loop."""

    folder: Path
    clock: Callable[[], float] = time.monotonic
    _counted: dict[DecisionKind, _Counted] = field(default_factory=dict)
    _ready: list[dict[str, Any]] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    def note(self, scope: Scope, reason: str, key: Key | None = None) -> None:
        """Note a decision; its reason is `allowed`, or why not. The key is known if its secret was right."""
        address, route = client_address(scope), str(getattr(scope.get("route"), "path", scope["path"]))
        kind = (address, reason, key.prefix if key else "", route)
        fields = {
            "event.action": "access",
            "event.category": ["authentication"],
            "event.outcome": "success" if reason == "allowed" else "failure",
            "event.reason": reason,
        }
        if kind not in self._counted and len(self._counted) + len(self._ready) >= MOST_KINDS:
            kind = ("", reason, "", "")
        else:
            fields.update(client_fields(address))
            fields["url.path"] = route
            fields["http.request.method"] = scope["method"]
            if key:
                fields.update({"llmops.key.prefix": key.prefix, "user.roles": [key.role]})
        moment = timestamp()
        if counted := self._counted.get(kind):
            counted.count += 1
            counted.start, counted.end = counted.start or moment, moment
        else:
            self._counted[kind] = _Counted(fields, self.clock())
            first = {"@timestamp": moment, "http.request.id": scope["state"]["id"], "llmops.audit.count": 1}
            self._ready.append({**fields, **first})

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._write(), name="audit")

    def note_limits_store(self, reason: str) -> None:
        """Note that the shared store of the limits is lost, with the reason, or, with "", that it is back."""
        fields = {"event.action": "limits_store", "event.outcome": "failure" if reason else "success"}
        self._ready.append({**fields, "@timestamp": timestamp(), "event.reason": reason or "it answers again"})

    async def stop(self) -> None:
        """Write the decisions that are left."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.flush(0.0)

    async def flush(self, period_s: float = PERIOD_S) -> None:
        """Write the firsts, and the counts that are at least `period_s` old; on a full disk they stay for later."""
        old = {kind: c for kind, c in self._counted.items() if self.clock() - c.begun >= period_s}
        counts = [
            {**c.fields, "@timestamp": c.end, "event.start": c.start, "event.end": c.end, "llmops.audit.count": c.count}
            for c in old.values()
            if c.count
        ]
        events = [*self._ready, *counts]
        kept, self._ready = self._ready, []
        for kind in old:
            del self._counted[kind]
        if not events:
            return
        try:
            await asyncio.shield(asyncio.to_thread(emit_all, self.folder, AUDIT, events))
        except Exception:
            log.exception("%d events about access cannot be written; they are kept", len(events))
            self._ready = [*kept, *counts, *self._ready]

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()


def client_address(scope: Scope) -> str:
    """Return the address that a request came from, as the server knows it."""
    return str(scope["client"][0]) if scope.get("client") else ""


def client_fields(address: str) -> dict[str, str]:
    """Return the address as fields of an event; `client.ip` takes nothing but an IP address."""
    try:
        return {"client.ip": str(ipaddress.ip_address(address))}
    except ValueError:
        return {"client.address": address[:100]} if address else {}
