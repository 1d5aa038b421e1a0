"""SentencePiece's log, which only its C++ writes and only to standard error, as our progress."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from recipes.console import Progress

_MERGES = re.compile(r"\bmerges=(\d+)")
_PIECES = re.compile(r"\bEM sub_iter=0 size=(\d+)")
_STAGES = {
    "Normalizing sentences": "counting words",
    "Extracting seed sentencepieces": "finding frequent strings",
}


class TrainingLog:
    """Follows the log of one training.

    BPE tells how many pieces it has merged. Unigram starts with up to a million pieces and drops some of them
    in each of its rounds until the vocabulary's size is left.

    Args:
        vocab_size: the number of pieces that are wanted.
        log: gets a line for each stage of which the log tells no more than that it has begun.
    """

    def __init__(self, vocab_size: int, log: Callable[[str], None]) -> None:
        self.vocab_size, self.log = vocab_size, log
        self.progress: Progress | None = None
        self.seeds = 0

    def read(self, line: str) -> None:
        """Takes the next line."""
        for sign, stage in _STAGES.items():
            if sign in line:
                self.log(stage)
        if merged := _MERGES.search(line):
            self._shown("merging", "piece").update_to(int(merged[1]), self.vocab_size)
        elif left := _PIECES.search(line):
            pieces = int(left[1])
            self.seeds = self.seeds or pieces
            if self.seeds > self.vocab_size:
                dropped, all_dropped = self.seeds - pieces, self.seeds - self.vocab_size
                self._shown("dropping", "piece").update_to(dropped, all_dropped)

    def _shown(self, label: str, unit: str) -> Progress:
        self.progress = self.progress or Progress(None, unit, label=label)
        return self.progress

    def close(self) -> None:
        """Ends the progress."""
        if self.progress is not None:
            self.progress.close()


@contextlib.contextmanager
def followed(log: TrainingLog) -> Iterator[None]:
    """While inside, whatever is written to the process's standard error is read by `log`.

    `sys.stderr` still goes where standard error went before. After Ctrl-C it stays so, for the trainer goes
    on in its thread until the process ends.
    """
    read_end, write_end = os.pipe()
    outside = os.dup(2)
    before = sys.stderr
    if _is_standard_error(before):
        sys.stderr = os.fdopen(os.dup(outside), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(write_end, 2)
    os.close(write_end)
    reader = threading.Thread(target=_read, args=(read_end, log), daemon=True)
    reader.start()
    try:
        yield
    except KeyboardInterrupt:
        log.close()
        raise
    except BaseException:
        _restore(outside, before, reader, log)
        raise
    _restore(outside, before, reader, log)


def _restore(outside: int, before: TextIO, reader: threading.Thread, log: TrainingLog) -> None:
    os.dup2(outside, 2)  # Nobody can write to the pipe any more, so the reader ends.
    os.close(outside)
    reader.join()
    log.close()
    if sys.stderr is not before:
        sys.stderr.close()
        sys.stderr = before


def _is_standard_error(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except OSError:  # A stream in memory.
        return False


def _read(descriptor: int, log: TrainingLog) -> None:
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            log.read(line)
