"""The serving app as an Azure Function with an HTTP trigger.

Azure's worker imports this inside its own event loop, which it needs for the host, and calls the function there for
many requests at once. So the app has a loop and a thread of its own, and is started when this is imported; requests
wait there until its model is loaded.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from azure.functions import AsgiMiddleware, Context, HttpRequest, HttpResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.config import Config
from serving.serverless import Instance

log = logging.getLogger(__name__)
T = TypeVar("T")


class Function:
    """The app. Calling it answers one request, from any event loop."""

    def __init__(self, config: Config, wait_s: float = 110.0) -> None:
        """Start the app; its model is loaded from now on.

        Args:
            wait_s: requests wait so long for the model. Then the app answers without it: 503, with the reason.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="app", daemon=True)
        self._thread.start()
        self._instance = Instance(config)
        self._web = AsgiMiddleware(with_caller(self._instance.app))
        try:
            self._run(self._instance.start())
        except BaseException:
            self._end()
            raise
        self._loading = asyncio.run_coroutine_threadsafe(self._load(wait_s), self._loop)

    async def __call__(self, request: HttpRequest, context: Context | None) -> HttpResponse:
        """Answer a request, and bring what it left in the spool to the sinks; what they do not take waits in /tmp."""
        answering = self._answer(request, context)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answering, self._loop))

    def close(self) -> None:
        """End the app; blocks."""
        self._loading.cancel()
        self._run(self._instance.close())
        self._end()

    async def _answer(self, request: HttpRequest, context: Context | None) -> HttpResponse:
        await asyncio.shield(asyncio.wrap_future(self._loading))
        try:
            return await self._web.handle_async(request, context)
        finally:
            await self._instance.ship()

    async def _load(self, wait_s: float) -> None:
        try:
            await self._instance.ready(wait_s)
        except Exception as error:  # whatever it is, the app answers from now on
            log.error("%s Requests for answers get 503 until there is one.", error)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def with_caller(app: ASGIApp) -> ASGIApp:
    """The app, told where a request came from: the last address in `X-Forwarded-For`, which Azure's front end adds."""

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        passed_on = dict(scope["headers"]).get(b"x-forwarded-for", b"").decode("latin-1")
        address, _, port = passed_on.rpartition(",")[2].strip().rpartition(":")
        if port.isdecimal() and address and (":" not in address or address.startswith("[")):
            scope["client"] = (address.strip("[]"), int(port))
        elif passed_on:
            scope["client"] = (passed_on.rpartition(",")[2].strip(), 0)
        await app(scope, receive, send)

    return told
