"""The engine's thread by itself: limits, cancelling, stopping, and an engine that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from recipes.inference.engine import Engine
from recipes.inference.requests import Event, Request, Sampling
from recipes.inference.text_model import GPTTextModel, load_text_model
from recipes.server.engine_thread import Arrival, EngineThread
from recipes.server.errors import Refusal, stopping
from tests.support.nemo_files import MAIN

GREEDY = Sampling(greedy=True)
SHORT = Request((1, 5, 6), 3, sampling=GREEDY)
LONG = Request((1, 5), 62, sampling=GREEDY)


@pytest.fixture(scope="module")
def model() -> GPTTextModel:
    return load_text_model(str(MAIN / "model.nemo"), precision="fp32", num_threads=1)


def run(model: GPTTextModel, case: Callable[[EngineThread], Awaitable[None]], capacity: int = 3) -> None:
    """The case, with a thread whose engine has two places."""

    async def started() -> None:
        thread = EngineThread(Engine(model, slots=2, max_length=64), capacity=capacity)
        thread.start(lambda: failures.append(True))
        try:
            await asyncio.wait_for(case(thread), 60)
        finally:
            thread.close()
        assert bool(failures) == (thread.failure is not None)

    failures: list[bool] = []
    asyncio.run(started())


async def all_events(arrivals: asyncio.Queue[Arrival], number: int) -> list[Arrival]:
    """Until so many requests have ended."""
    found = []
    while number:
        place, event = await arrivals.get()
        found.append((place, event))
        number -= isinstance(event, Refusal) or event.finished is not None
    return found


def ids_of(events: list[Arrival], place: int) -> list[int]:
    return [
        token
        for found, event in events
        if found == place and isinstance(event, Event)
        for token in event.token_ids
    ]


def test_events_reach_their_requests(model: GPTTextModel) -> None:
    async def case(thread: EngineThread) -> None:
        first: asyncio.Queue[Arrival] = asyncio.Queue()
        second: asyncio.Queue[Arrival] = asyncio.Queue()
        thread.submit([SHORT, LONG], first)
        thread.submit([SHORT], second)
        both, alone = await all_events(first, 2), await all_events(second, 1)
        assert ids_of(both, 0) == ids_of(alone, 0)
        assert len(ids_of(both, 1)) == 62
        assert thread.waiting == 0

    run(model, case)


def test_all_or_none_are_taken(model: GPTTextModel) -> None:
    async def case(thread: EngineThread) -> None:
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        thread.submit([LONG, LONG], arrivals)
        with pytest.raises(Refusal, match="2 completions run or wait, 2 more would be above") as caught:
            thread.submit([SHORT, SHORT], arrivals)
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        with pytest.raises(Refusal, match="no more than 3 can run and wait") as caught:
            thread.submit([SHORT] * 4, arrivals)
        assert caught.value.status == 400  # To try again would never help.
        thread.submit([SHORT], arrivals)
        await all_events(arrivals, 3)
        thread.submit([SHORT, SHORT], arrivals)
        await all_events(arrivals, 2)

    run(model, case)


def test_what_is_cancelled_sends_nothing_more(model: GPTTextModel) -> None:
    async def case(thread: EngineThread) -> None:
        cancelled: asyncio.Queue[Arrival] = asyncio.Queue()
        other: asyncio.Queue[Arrival] = asyncio.Queue()
        running, waiting = thread.submit([LONG, LONG], cancelled)
        (third,) = thread.submit([SHORT], other)
        await cancelled.get()
        for one in (running, waiting, running):  # Again: nothing happens.
            thread.cancel(one)
        seen = cancelled.qsize()
        assert len(ids_of(await all_events(other, 1), 0)) == 3
        assert cancelled.qsize() == seen
        thread.cancel(third)  # It has ended.
        thread.submit([SHORT, SHORT, SHORT], other)
        await all_events(other, 3)

    run(model, case)


def test_what_the_engine_refuses(model: GPTTextModel) -> None:
    async def case(thread: EngineThread) -> None:
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        thread.submit([Request((1,) * 64, 5)], arrivals)
        ((_, refusal),) = await all_events(arrivals, 1)
        assert isinstance(refusal, Refusal) and refusal.status == 400

    run(model, case)


def test_stopping(model: GPTTextModel) -> None:
    async def case(thread: EngineThread) -> None:
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        thread.submit([LONG, LONG], arrivals)
        thread.stopping = True
        with pytest.raises(Refusal, match="shutting down"):
            thread.submit([SHORT], arrivals)
        thread.refuse_all(stopping())
        refused = [event for _, event in await all_events(arrivals, 2) if isinstance(event, Refusal)]
        assert [refusal.status for refusal in refused] == [503, 503]

    run(model, case)


def test_an_engine_that_fails(model: GPTTextModel) -> None:
    """All requests hear of it, the owner is told, and nothing more is taken."""

    def fault(generated: list[int]) -> bool:
        raise ZeroDivisionError

    async def case(thread: EngineThread) -> None:
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        thread.submit([LONG, Request((1, 5), 3, stop=fault)], arrivals)
        refused = [event for _, event in await all_events(arrivals, 2) if isinstance(event, Refusal)]
        assert [refusal.status for refusal in refused] == [500, 500]
        assert isinstance(thread.failure, ZeroDivisionError)
        with pytest.raises(Refusal, match="the server has failed"):
            thread.submit([SHORT], arrivals)

    run(model, case)
