"""Running trainers of other languages so that Ctrl-C still works."""

import threading
from collections.abc import Callable


def run_in_thread(work: Callable[[], None]) -> None:
    """Runs `work` to its end and raises what it raised.

    In a thread of its own, because minutes of C++ or Rust would not notice Ctrl-C; joining does.
    """
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
