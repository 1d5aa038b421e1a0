"""Writing sharded state with megatron-core, and saying in one line when the disk refuses."""

from __future__ import annotations

import errno
import logging
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.api import CheckpointException

from recipes.errors import UserError
from recipes.files import free_bytes, free_space

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
NOTHING_LEFT = "nothing was left behind, earlier checkpoints are untouched"
# What torch's zip writer says instead when a write under it failed.
TORCH_REFUSALS = ("PytorchStreamWriter failed", "unexpected pos")


def write_sharded(state: dict[str, Any], directory: Path) -> None:
    """Writes a sharded state dict into ``directory``, in megatron-core's torch_dist format."""
    if filesystem_async._results_queue is None:
        # Its own queue lives in a manager process, which would outlive us for ever were we killed. Results
        # only cross processes when saving is asynchronous, which this is not.
        filesystem_async._results_queue = queue.Queue()
    dist_checkpointing.save(
        state, str(directory), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
    )


@contextmanager
def disk_errors(path: Path, advice: str) -> Iterator[None]:
    """Turns a refusal of the disk while ``path`` is written into a :class:`UserError`."""
    # Its writer process logs what it then also raises.
    writer_log = logging.getLogger("megatron.core.dist_checkpointing.strategies.filesystem_async")
    level = writer_log.level
    writer_log.setLevel(logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except (Exception, CheckpointException) as error:  # The latter is no Exception.
        reason = _refusal(error, path)
        if reason is None:
            raise
        raise UserError(f"{path}: cannot be saved: {reason} ({free_space(path.parent)}); {advice}") from error
    finally:
        writer_log.setLevel(level)


def _refusal(error: BaseException, path: Path) -> str | None:
    """What the disk said, if it was the disk. The writer process's error arrives as a text or as a cause."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        failures = list(getattr(cause, "failures", {}).values())
        cause = failures[0][0] if failures else cause.__cause__ or cause.__context__
    for each in seen:
        for code in REFUSALS:
            if (isinstance(each, OSError) and each.errno == code) or os.strerror(code) in str(each):
                return os.strerror(code)
    if any(text in str(each) for each in seen for text in TORCH_REFUSALS):
        free = free_bytes(path.parent)  # What was half written is still there.
        return os.strerror(errno.ENOSPC) if free is not None and free < 2**20 else "a write failed"
    return None
