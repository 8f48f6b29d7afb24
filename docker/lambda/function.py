"""The serving app as an AWS Lambda function: API Gateway (REST and HTTP), function URLs and load balancers call it.

The app lives as long as the instance: its model is loaded before the first request, and its event loop runs while a
request is answered. Between requests Lambda freezes everything.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mangum import Mangum

from llmops.config import Config
from serving.serverless import Instance


class Function:
    """The app with a model loaded. Calling it answers one event, as API Gateway wants it answered."""

    def __init__(self, config: Config, wait_s: float = 300.0) -> None:
        """Start the app and wait for its model.

        Raises:
            RuntimeError: if it is not ready in `wait_s`, with the reason that `/readyz` gives.
        """
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)  # Mangum runs requests in the thread's current loop
        self._instance = Instance(config)
        self._web = Mangum(self._instance.app, lifespan="off")  # "on" would load the model for every event
        self._loop.run_until_complete(self._instance.start())
        try:
            self._loop.run_until_complete(self._instance.ready(wait_s))
        except RuntimeError:
            self.close()
            raise

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer an event, and bring what it left in the spool to the sinks; what they do not take waits in /tmp."""
        try:
            return self._web(event, context)
        finally:
            self._loop.run_until_complete(self._instance.ship())

    def close(self) -> None:
        """End the app; Lambda itself never does."""
        self._loop.run_until_complete(self._instance.close())
        self._loop.close()
        asyncio.set_event_loop(None)
