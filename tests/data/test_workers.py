"""Workers answer in order; a death, whenever it comes, is an error and never a wait without end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.data.workers import WorkerDied, WorkerPool
from recipes.errors import UserError
from tests.support.paths import ROOT
from tests.support.work import make_worker


def pool_of(workers: int, kind: str) -> "WorkerPool[Any, Any]":
    return WorkerPool(workers, make_worker, (kind,))


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """Its result or its exception; a hang fails the test instead of stopping it."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"no end within {seconds} s"
    return outcome[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_order(workers: int) -> None:
    with pool_of(workers, "slow_when_even") as pool:
        assert list(pool.map(iter(range(40)))) == [(number, number) for number in range(40)]
        assert list(pool.map(iter([]))) == []


def test_large_tasks_and_large_results_at_once() -> None:
    """More than the pipes hold, in both directions: nobody waits for somebody who waits for him."""
    with pool_of(2, "double") as pool:
        tasks = [bytes([number]) * (2 << 20) for number in range(12)]
        done = within(240, lambda: [result == 2 * task for task, result in pool.map(iter(tasks))])
    assert done == [True] * 12


def test_a_bounded_number_of_tasks_is_taken() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken = number + 1
            yield number

    with pool_of(2, "double") as pool:
        for number, _ in pool.map(tasks()):
            assert taken - number <= 8
    assert taken == 1000


def test_errors_come_when_it_is_their_turn() -> None:
    with pool_of(2, "refuse_seven") as pool:
        results = pool.map(iter(range(20)))
        assert [next(results)[1] for _ in range(7)] == list(range(7))
        with pytest.raises(UserError, match="not 7"):
            next(results)
    with pool_of(1, "divide") as pool, pytest.raises(RuntimeError, match=r"(?s)Traceback.*division by zero"):
        list(pool.map(iter([1, 0])))
    with pool_of(1, "no such kind") as pool, pytest.raises(RuntimeError, match="KeyError"):
        list(pool.map(iter([1])))


@pytest.mark.parametrize("size", [1 << 20, 64 << 20])
def test_killed_in_the_middle_of_a_result(size: int) -> None:
    """Both workers hang in the write of a result that nobody reads yet; then they are killed."""
    with pool_of(2, "large") as pool:
        results = pool.map(iter([0, 0, *[size] * 6]))
        next(results)
        time.sleep(0.3)
        for process in pool._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        error = within(240, lambda: [len(result) for _, result in results])
    assert isinstance(error, WorkerDied)
    # Indeed in the middle of a message: between two, the pipe's end would be an EOFError.
    assert isinstance(error.__cause__, OSError)


def test_killed_at_any_time() -> None:
    for attempt in range(12):
        with pool_of(2, "die_later") as pool:
            delays = iter([0.004 * attempt] * 100)
            error = within(240, lambda pool=pool, delays=delays: list(pool.map(delays)))
        assert isinstance(error, WorkerDied)


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(process_ids: list[int]) -> bool:
    deadline = time.monotonic() + 240
    while any(map(alive, process_ids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, process_ids))


def test_workers_end_with_the_pool() -> None:
    with pytest.raises(KeyError), pool_of(2, "process") as pool:
        ids = {result for _, result in pool.map(iter(range(20)))}
        raise KeyError
    assert len(ids) == 2 and gone(list(ids))


@pytest.mark.parametrize("kind", ["process", "large"])
def test_workers_end_with_their_parent(kind: str) -> None:
    """Also when they wait for a task, and when they write a result that nobody will read."""
    code = f"""
import os, time
from recipes.data.workers import WorkerPool
from tests.support.work import make_worker
if __name__ == "__main__":
    pool = WorkerPool(2, make_worker, ({kind!r},))
    results = pool.map(iter([0, 0] + [64 << 20] * 6))
    next(results)
    print(*[process.pid for process in pool._processes], flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        ids = [int(word) for word in parent.stdout.readline().split()]
        assert len(ids) == 2 and all(map(alive, ids))
        parent.kill()
    assert gone(ids)
