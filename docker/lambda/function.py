"""The serving app as an AWS Lambda function: API Gateway (REST and HTTP), function URLs and load balancers call it.

The app lives as long as the instance: its model is loaded before the first request, and its event loop runs while a
request is answered. Between requests Lambda freezes everything, and it may throw an instance away without a word; so
events are brought to their sink before the answer goes out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from mangum import Mangum

from llmops.config import Config
from llmops.events.shipping import ship_events
from llmops.events.sinks.factory import make_sinks
from serving.app import create_app

log = logging.getLogger(__name__)

READY: dict[str, Any] = {
    "version": "2.0",
    "rawPath": "/readyz",
    "rawQueryString": "",
    "headers": {"host": "localhost"},
    "requestContext": {"http": {"method": "GET", "path": "/readyz", "sourceIp": "127.0.0.1"}},
    "isBase64Encoded": False,
}


def bring(database: Path, config: Config) -> None:
    """Copy the image's database to where it can be opened for writing, unless `state.url` names another one."""
    place = config.home / "state.db"
    if not config.state.url and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(database, place)


class Function:
    """The app with a model loaded. Calling it answers one event, as API Gateway wants it answered."""

    def __init__(self, config: Config, wait_s: float = 300.0) -> None:
        """Start the app and wait for its model.

        Raises:
            RuntimeError: if it is not ready in `wait_s`, with the reason that `/readyz` gives.
        """
        self._events = config.events
        self._sinks = make_sinks(config.events, config.monitoring)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # Mangum runs requests in the thread's current loop
        app = create_app(config)
        self._web = Mangum(app, lifespan="off")  # "on" would load the model for every event
        self._running = app.router.lifespan_context(app)
        self._loop.run_until_complete(self._running.__aenter__())
        try:
            self._wait(wait_s)
        except RuntimeError:
            self.close()
            raise

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer an event, and bring what it left in the spool to the sinks; what they do not take waits in /tmp."""
        try:
            return self._web(event, context)
        finally:
            for name, shipment in ship_events(self._events, self._sinks).items():
                if shipment.error:
                    log.error("Sink %s: %s The events wait for this instance's next request.", name, shipment.error)

    def close(self) -> None:
        """End the app; Lambda itself never does."""
        self._loop.run_until_complete(self._running.__aexit__(None, None, None))
        self._loop.close()
        asyncio.set_event_loop(None)
        for sink in self._sinks:
            sink.close()

    def _wait(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while (answer := self._web(READY, None))["statusCode"] != 200:
            if time.monotonic() > end:
                raise RuntimeError(f"No model in {wait_s:.0f} s: {json.loads(answer['body'])['detail']}")
            self._loop.run_until_complete(asyncio.sleep(0.05))
