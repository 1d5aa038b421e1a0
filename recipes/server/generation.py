"""One HTTP request's completions, from the engine's events to the parts of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import suppress
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from recipes.server.asked import Asked, Served
from recipes.server.choice import Choice, Part
from recipes.server.engine_thread import Arrival, EngineThread
from recipes.server.errors import Refusal
from recipes.server.metrics import Metrics

T = TypeVar("T")


class Generation:
    """Completions that are generated together.

    Args:
        engine: gets them; either all or none.
        served: the model.
        asked: the completions.
        metrics: count them.

    Raises:
        Refusal: there is no room.
    """

    def __init__(
        self, engine: EngineThread, served: Served, asked: Sequence[Asked], metrics: Metrics
    ) -> None:
        self._engine, self._metrics, self.asked = engine, metrics, asked
        self._begun = time.monotonic()
        self._choices = [Choice(served.model.tokenizer, one) for one in asked]
        self._events: asyncio.Queue[Arrival] = asyncio.Queue()
        self._running = engine.submit([one.request for one in asked], self._events)
        self._ended = False
        self.generated = 0
        """Tokens so far."""
        metrics.prompt_tokens.inc(sum(len(one.request.prompt) for one in asked))

    async def parts(self) -> AsyncGenerator[tuple[int, Part]]:
        """Parts of all completions, as they come, each with its completion's number.

        If this ends early, the completions' places are freed.

        Raises:
            Refusal: the engine refused or failed, or the server is stopping.
        """
        try:
            left = len(self._running)
            while left:
                number, event = await self._events.get()
                if isinstance(event, Refusal):
                    raise event
                part = self._choices[number].add(event)
                if not self.generated and part.ids:
                    self._metrics.first_token_s.observe(time.monotonic() - self._begun)
                self.generated += len(part.ids)
                self._metrics.generated_tokens.inc(len(part.ids))
                left -= part.finish_reason is not None
                yield number, part
            self._ended = True
            self._metrics.request_s.observe(time.monotonic() - self._begun)
        finally:
            self.cancel()

    async def whole(self) -> list[Part]:
        """Every completion as one part.

        Raises:
            Refusal: as :meth:`parts`.
        """
        parts: list[list[Part]] = [[] for _ in self.asked]
        async for number, part in self.parts():
            parts[number].append(part)
        return [
            Part(
                "".join(part.text for part in choice),
                [token for part in choice for token in part.tokens],
                tuple(token for part in choice for token in part.ids),
                choice[-1].finish_reason,
            )
            for choice in parts
        ]

    def cancel(self) -> None:
        """Frees the places of what has not ended."""
        if not self._ended:
            self._ended = True
            self._metrics.unfinished.inc()
        for running in self._running:
            self._engine.cancel(running)


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled if the client leaves.

    Raises:
        ClientDisconnect: it has left.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for pending in (task, left):
            pending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await pending


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
