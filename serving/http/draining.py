"""The server: it bounds its connections, and ends without losing a request.

First `/readyz` turns red, then nothing new is taken, then it ends.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import socket
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from llmops.config import Serving
from serving.http.protocol import BoundedProtocol

#: for the next request of a connection, in seconds. More than clients (httpx 5) and balancers (60) leave theirs unused:
#: the side that sends the requests must be the one that closes, or one of them meets a closed connection.
KEEP_ALIVE_S = 75


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM goes on for `drain_s` seconds before it stops to take requests.

    What was taken is answered in any case. A second SIGTERM, or Ctrl-C, cuts the wait short.
    """

    def __init__(self, app: FastAPI, serving: Serving) -> None:
        settings = uvicorn.Config(
            app,
            host=serving.host,
            port=serving.port,
            http=BoundedProtocol,
            limit_concurrency=serving.max_connections,
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(serving.timeout_s) + 1,  # by then all that was taken has its answer
            access_log=False,  # it would hold prompts; every request is an event without them
        )
        super().__init__(settings)
        self._app, self._drain_s = app, serving.drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; from here on garbage is looked for among what requests make, not among all modules."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`; it comes ten times a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.bounded(now)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`."""
        waits = sig == signal.SIGTERM and self._drain_s > 0 and not self._app.state.draining
        self._app.state.draining = True
        if waits:
            timer = threading.Timer(self._drain_s, super().handle_exit, (sig, None))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)
