"""The app in an instance of a serverless platform: ready before it answers, its events at their sinks when it has.

Such an instance may be frozen between two requests or thrown away, without a word. So the app is started once and its
model loaded before the first request is answered, and events are at their sinks before an answer goes out. What stands
between this and a platform is in `docker/lambda` and `docker/azure`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from pathlib import Path

import httpx

from llmops.config import Config
from llmops.monitoring.shipping import ship
from llmops.monitoring.sinks.configured import sinks_for
from serving.app import create_app

log = logging.getLogger(__name__)


def bring(database: Path, config: Config) -> None:
    """Copy the image's database to where it can be opened for writing, unless `state.url` names another one."""
    place = config.home / "state.db"
    if not config.state.url and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(database, place)


class Instance:
    """The app of an instance; all of it is called on one event loop, which its caller has."""

    def __init__(self, config: Config) -> None:
        self.app = create_app(config)
        self._events = config.events
        self._sinks = sinks_for(config.events, config.monitoring)
        self._running = self.app.router.lifespan_context(self.app)
        self._shipping = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the app; its model is loaded from now on."""
        await self._running.__aenter__()

    async def ready(self, wait_s: float) -> None:
        """Wait for the model.

        Raises:
            RuntimeError: if it is not loaded in `wait_s`, with the reason that `/readyz` gives.
        """
        end = time.monotonic() + wait_s
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost") as client:
            while (answer := await client.get("/readyz")).status_code != 200:
                if time.monotonic() > end:
                    raise RuntimeError(f"No model in {wait_s:.0f} s: {answer.json()['detail']}")
                await asyncio.sleep(0.05)

    async def ship(self) -> None:
        """Bring the events of what was asked by now to the sinks; what they do not take waits in the spool.

        Who comes while this is done shares the next one with all others that wait: a sink that hangs delays each of
        them twice at most.
        """
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._ship())
        await asyncio.shield(self._waiting)

    async def close(self) -> None:
        """End the app."""
        await self._running.__aexit__(None, None, None)
        for sink in self._sinks:
            sink.close()

    async def _ship(self) -> None:
        async with self._shipping:
            self._waiting = None
            try:
                parts, texts = self.app.state.parts, self.app.state.texts
                await asyncio.gather(parts.audit.flush(), asyncio.to_thread(texts.settle))
                shipments = await asyncio.to_thread(ship, self._events, self._sinks)
            except Exception:  # a full disk, say: the answer goes out all the same
                log.exception("Events could not be shipped; they wait in %s", self._events)
                return
            for name, shipment in shipments.items():
                if shipment.error:
                    log.error("Sink %s: %s The events wait for this instance's next request.", name, shipment.error)
