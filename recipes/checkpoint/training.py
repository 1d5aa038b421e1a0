"""Training checkpoints: megatron-core's torch_dist format, the same files under every parallel layout."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer

from recipes.checkpoint.manifest import write_manifest
from recipes.checkpoint.safety import check_metadata, load_plain
from recipes.errors import UserError

# The form of the optimizer state that can be read back under any other layout.
OPTIMIZER_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


def save_training_checkpoint(
    directory: Path, gpt: GPTModel, optimizer: MegatronOptimizer, plain: dict[str, Any]
) -> None:
    """Writes weights, optimizer state and ``plain`` data; ``directory`` appears whole or not at all.

    Raises:
        UserError: the disk is full or refuses; nothing is left behind.
    """
    model_state = gpt.sharded_state_dict()
    state = {
        "model": model_state,
        "optimizer": optimizer.sharded_state_dict(model_state, metadata=OPTIMIZER_METADATA),
        **plain,
    }
    save_sharded(directory, state, step=plain.get("global_step"))


def save_sharded(directory: Path, state: dict[str, Any], **facts: Any) -> None:
    """Saves a sharded state dict atomically: a partial name, the manifest last, then the real name."""
    partial = directory.with_name(f".{directory.name}.partial")
    rank_zero = dist.get_rank() == 0
    if rank_zero:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    try:
        dist_checkpointing.save(state, str(partial), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1))
        dist.barrier()
        if rank_zero:
            write_manifest(partial, **facts)
            _fsync_directory(partial)
            if directory.exists():  # Without a manifest, or it would not be written again.
                shutil.rmtree(directory)
            partial.rename(directory)
            _fsync_directory(directory.parent)
    except Exception as error:
        if rank_zero:
            shutil.rmtree(partial, ignore_errors=True)
        if _is_disk_error(error):
            free = shutil.disk_usage(directory.parent).free
            raise UserError(
                f"{directory}: cannot be saved: {_root_cause(error)} ({free / 1e6:.0f} MB free there); "
                "nothing was left behind, earlier checkpoints are untouched"
            ) from error
        raise
    dist.barrier()


def load_training_checkpoint(directory: Path, gpt: GPTModel, optimizer: MegatronOptimizer) -> dict[str, Any]:
    """Reads weights and optimizer state into place, resharded to the present layout; returns the plain data."""
    check_metadata(directory)
    load_plain(directory / "common.pt")
    model_state = gpt.sharded_state_dict()
    state = {
        "model": model_state,
        "optimizer": optimizer.sharded_state_dict(model_state, is_loading=True, metadata=OPTIMIZER_METADATA),
    }
    loaded = dist_checkpointing.load(state, str(directory))
    gpt.load_state_dict(loaded.pop("model"))
    optimizer.load_state_dict(loaded.pop("optimizer"))
    return loaded


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_error(error: BaseException) -> bool:
    """Whether the disk refused. The writer process's OSError reaches us wrapped, as text or as a cause."""
    text = _root_cause(error)
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
    return isinstance(error, UserError) or any(os.strerror(code) in text for code in codes)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).strip().splitlines()[-1]
