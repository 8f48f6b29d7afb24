"""uvicorn's server with a shutdown that loses no request."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

SWITCH_S = 0.001  #: most time that a background thread keeps the event loop waiting; Python's default is 5 ms


class DrainingServer(uvicorn.Server):
    """uvicorn's server that accepts requests for another `drain_s` seconds after SIGTERM, while `/readyz` answers 503.

    Accepted requests are always answered. A second SIGTERM, or Ctrl-C, ends the wait.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app, self._drain_s = app, drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`. Exempt all objects made so far from garbage collection."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`."""
        delayed = sig == signal.SIGTERM and self._drain_s > 0 and not self._app.state.draining
        self._app.state.draining = True
        if delayed:
            timer = threading.Timer(self._drain_s, super().handle_exit, (sig, None))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)
