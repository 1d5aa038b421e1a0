"""Writing sharded state with megatron-core, and saying in one line when the disk refuses."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from recipes.errors import UserError

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
# What torch's zip writer says instead when a write under it failed.
TORCH_REFUSALS = ("PytorchStreamWriter failed", "unexpected pos")


def write_sharded(state: dict[str, Any], directory: Path) -> None:
    """Writes a sharded state dict into ``directory``, in megatron-core's torch_dist format."""
    dist_checkpointing.save(state, str(directory), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1))


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
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise UserError(f"{path}: cannot be saved: {reason} ({_free(path)}); {advice}") from error
    finally:
        writer_log.setLevel(level)


def _refusal(error: BaseException) -> str | None:
    """What the disk said, if it was the disk. The writer process's error arrives wrapped, as text or as a cause."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    for each in seen:
        for code in REFUSALS:
            if (isinstance(each, OSError) and each.errno == code) or os.strerror(code) in str(each):
                return os.strerror(code)
    if any(text in str(each) for each in seen for text in TORCH_REFUSALS):
        return "a write failed"
    return None


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB free there"
    except OSError:
        return "free space unknown"
