"""uvicorn, stopped by this project's rules."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from recipes.server.engine_thread import EngineThread
from recipes.server.errors import stopping

_LAST_WORDS_S = 2
"""For sending the refusals of requests that were cancelled."""
_MOST_CONNECTIONS = 1000


class StoppingServer(uvicorn.Server):
    """Lets running requests finish for a while, then refuses them.

    uvicorn itself would end the process by the signal that stopped it: no exit code, and no closing of the
    engine.

    Args:
        app: answers requests.
        engine: generates for it.
        timeout: seconds that running requests have to finish.
    """

    def __init__(self, app: ASGIApp, engine: EngineThread, timeout: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(timeout) + 1 + _LAST_WORDS_S,
                limit_concurrency=_MOST_CONNECTIONS,
            )
        )
        self._engine, self._timeout = engine, timeout

    def stop(self) -> None:
        """Begins to stop."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On SIGTERM or Ctrl-C: stops; on a second one without waiting."""
        if self.should_exit:
            self._loop.call_soon_threadsafe(self._engine.refuse_all, stopping())
            self.force_exit = True
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what runs, within the time for it."""
        self._engine.stopping = True
        late = self._loop.call_later(self._timeout, self._engine.refuse_all, stopping())
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
