"""The engine in a thread of its own, and what the server's event loop knows of it."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence

from recipes.errors import UserError
from recipes.inference.engine import Engine
from recipes.inference.requests import Event, Request
from recipes.server.errors import Refusal, failed, stopping, too_busy

Arrival = tuple[int, Event | Refusal]
"""What has come of the n-th of requests that were handed over together. An event that says ``finished`` and a
refusal are the last."""


class Running:
    """A request that the engine has or will have."""

    def __init__(self, request: Request, place: int, arrivals: asyncio.Queue[Arrival]) -> None:
        self.request, self.place, self.arrivals = request, place, arrivals
        self.number: int | None = None
        """The engine's; set and read by its thread."""


class EngineThread:
    """Steps an engine while there is work. Requests come from the event loop, and their events go back there.

    Args:
        engine: nobody else may use it.
        capacity: requests that run or wait at a time.
    """

    def __init__(self, engine: Engine, *, capacity: int) -> None:
        self._engine, self._capacity = engine, capacity
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._by_number: dict[int, Running] = {}
        self._active: set[Running] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_failure: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.failure: BaseException | None = None
        """What ended the thread, which then refuses everything."""
        self.stopping = False
        """New requests are refused."""

    def start(self, on_failure: Callable[[], None]) -> None:
        """Starts the thread; call it in the event loop.

        Args:
            on_failure: called there if the engine fails.
        """
        self._loop, self._on_failure = asyncio.get_running_loop(), on_failure
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return max(0, len(self._active) - self.running)

    @property
    def running(self) -> int:
        """Requests that are being generated."""
        return self._engine.running

    def submit(self, requests: Sequence[Request], arrivals: asyncio.Queue[Arrival]) -> list[Running]:
        """Hands requests to the engine: all of them or none.

        Args:
            requests: what is to be generated.
            arrivals: where their events go.

        Raises:
            Refusal: there is no room, now or ever, or the server is stopping.
        """
        if self.failure is not None:
            raise failed()
        if self.stopping:
            raise stopping()
        if len(requests) > self._capacity:  # It would be in vain to try again.
            raise Refusal(
                f"asks for {len(requests):,} completions; no more than {self._capacity:,} can run and wait "
                "here: send several requests"
            )
        if len(self._active) + len(requests) > self._capacity:
            raise too_busy(
                f"{len(self._active):,} completions run or wait, {len(requests):,} more would be above this "
                f"server's {self._capacity:,}; try again later"
            )
        started = [Running(request, place, arrivals) for place, request in enumerate(requests)]
        for running in started:
            self._active.add(running)
            self._commands.put(lambda running=running: self._begin(running))  # type: ignore[misc]
        return started

    def cancel(self, running: Running) -> None:
        """Frees a request's place; does nothing if it has ended."""
        if running in self._active:
            self._active.remove(running)
            self._commands.put(lambda: self._cancel(running))

    def refuse_all(self, refusal: Refusal) -> None:
        """Ends all requests with this refusal."""
        for running in list(self._active):
            running.arrivals.put_nowait((running.place, refusal))
            self.cancel(running)

    def close(self) -> None:
        """Ends the thread; the engine can be let go after that."""
        self._commands.put(self._close)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closed:
                self._obey()
                if not self._closed:
                    self._send(self._known(self._engine.step()))
        except BaseException as error:  # Whatever it is, the main thread ends with it.
            self.failure = error
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._fail)

    def _known(self, events: Sequence[Event]) -> list[tuple[Running, Event | Refusal]]:
        """The events of requests that are not cancelled, with those requests."""
        known = [
            (self._by_number[event.request], event) for event in events if event.request in self._by_number
        ]
        for _, event in known:
            if event.finished is not None:
                del self._by_number[event.request]
        return [*known]

    def _obey(self) -> None:
        """Does what the event loop has asked for; waits for that while there is nothing to generate."""
        while not self._closed:
            try:
                command = self._commands.get(block=self._engine.idle)
            except queue.Empty:
                return
            command()

    def _begin(self, running: Running) -> None:
        try:
            running.number = self._engine.submit(running.request)
        except UserError as error:
            self._send([(running, Refusal(str(error)))])
        else:
            self._by_number[running.number] = running

    def _cancel(self, running: Running) -> None:
        if running.number is not None and self._by_number.pop(running.number, None) is not None:
            self._engine.cancel(running.number)

    def _close(self) -> None:
        self._closed = True

    def _send(self, events: list[tuple[Running, Event | Refusal]]) -> None:
        assert self._loop is not None
        if events:
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[tuple[Running, Event | Refusal]]) -> None:
        for running, event in events:
            if running not in self._active:  # Cancelled meanwhile.
                continue
            running.arrivals.put_nowait((running.place, event))
            if isinstance(event, Refusal) or event.finished is not None:
                self._active.discard(running)

    def _fail(self) -> None:
        self.refuse_all(failed())
        self._on_failure()
