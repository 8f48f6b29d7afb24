"""A server that ends without losing a request: first `/readyz` turns red, then nothing new is taken, then it ends."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

#: for the next request of a connection, in seconds. More than clients (httpx 5) and balancers (60) leave theirs unused:
#: the side that sends the requests must be the one that closes, or one of them meets a closed connection.
KEEP_ALIVE_S = 75
SWITCH_S = 0.001  #: for so long a thread of the background may keep the event loop waiting; Python's default is 5 ms


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM goes on for `drain_s` seconds before it stops to take requests.

    What was taken is answered in any case. A second SIGTERM, or Ctrl-C, cuts the wait short.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app, self._drain_s = app, drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; from here on garbage is looked for among what requests make, not among all modules."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)

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
