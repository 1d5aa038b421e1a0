"""Worker processes that answer in order, and whose sudden death is noticed at once.

Every worker has a pipe of its own. A worker that dies, even in the middle of writing a result, ends its pipe:
the parent reads "end of file", never half a message that it waits for. (The standard library's process pools
share one result pipe under a lock, which a killed worker takes with it.)
"""

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

from recipes.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_PER_WORKER = 2  # sent to a worker and unanswered: one at work, one waiting
_RESULTS_PER_WORKER = 2  # finished but not yet in turn


class WorkerDied(RuntimeError):
    """A worker process ended without an answer: killed, out of memory, crashed."""


class WorkerPool(Generic[Task, Result]):
    """Processes that each build a function once and then call it on one task after another.

    Args:
        workers: how many processes. They start at once and work through :meth:`map`.
        build: an importable function; called in each worker.
        arguments: of `build`; small, for starting a process waits until they are read.

    Example:
        >>> with WorkerPool(2, make_tokenize, (path,)) as pool:
        ...     for task, result in pool.map(tasks): ...
    """

    def __init__(
        self, workers: int, build: Callable[..., Callable[[Task], Result]], arguments: tuple[Any, ...]
    ) -> None:
        # Spawned, not forked: a forked process would hold our open files and locks beyond our death.
        context = multiprocessing.get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        resource_tracker.ensure_running()  # It would unblock the signal again.
        # Workers inherit the mask: Ctrl-C reaches the whole process group, but only the parent heeds it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                self._connections.append(ours)
                process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
                process.start()
                self._processes.append(process)
                theirs.close()  # Now only the worker holds it: it ends with the worker.
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def __enter__(self) -> "WorkerPool[Task, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they do; they own nothing that must be saved."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()

    def map(self, tasks: Iterator[Task]) -> Generator[tuple[Task, Result], None, None]:
        """Each task with its result, in the order of the tasks; a bounded number is under way at any time.

        Raises:
            WorkerDied: a worker ended. Also whatever the function raised, when its task's turn comes: a
                UserError as it is, anything else as a RuntimeError with the worker's traceback.
        """
        waiting: deque[tuple[int, Task]] = deque()  # in order: submitted, not yet yielded
        answers: dict[int, tuple[bool, Any]] = {}
        load = dict.fromkeys(self._connections, 0)
        most = (_TASKS_PER_WORKER + _RESULTS_PER_WORKER) * len(load)
        count, exhausted = 0, False
        while True:
            while not exhausted and len(waiting) < most:
                idlest = min(load, key=lambda connection: load[connection])
                if load[idlest] >= _TASKS_PER_WORKER:
                    break
                try:
                    task = next(tasks)
                except StopIteration:
                    exhausted = True
                    break
                _send(idlest, (count, task))
                load[idlest] += 1
                waiting.append((count, task))
                count += 1
            if not waiting:
                return
            if waiting[0][0] in answers:
                number, task = waiting.popleft()
                succeeded, result = answers.pop(number)
                if not succeeded:
                    raise result
                yield task, result
                continue
            for connection in wait(list(load)):
                assert isinstance(connection, Connection)
                number, succeeded, result = _receive(connection)
                load[connection] -= 1
                answers[number] = succeeded, result


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except OSError as error:
        raise WorkerDied("a worker process died") from error


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:  # Before a message, and in the middle of one.
        raise WorkerDied("a worker process died") from error


def _serve(
    connection: Connection, build: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]
) -> None:
    """A worker's life: it ends with the pipe, that is with its parent, however that dies."""
    tasks: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def read() -> None:
        # In a thread of its own: a task that is larger than the pipe's buffer would otherwise keep the parent
        # waiting for us, while we wait for it to take a result.
        try:
            while True:
                tasks.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    work: Callable[[Any], Any] | None = None
    while True:
        number, task = tasks.get()
        try:
            work = work or build(*arguments)
            answer: tuple[int, bool, Any] = (number, True, work(task))
        except UserError as error:
            answer = (number, False, error)
        except Exception:
            answer = (number, False, RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        try:
            connection.send(answer)
        except OSError:
            os._exit(1)


def in_this_process(work: Callable[[Task], Result], tasks: Iterator[Task]) -> Iterator[tuple[Task, Result]]:
    """What :meth:`WorkerPool.map` does, without processes."""
    for task in tasks:
        yield task, work(task)
