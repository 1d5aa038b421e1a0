"""Training checkpoints: megatron-core's torch_dist format, the same files under every parallel layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException

from recipes.checkpoint.formats.safety import check_metadata, load_plain, only_plain_data, reason
from recipes.checkpoint.save.disk import NOTHING_LEFT
from recipes.checkpoint.save.publish import new_partial, publish
from recipes.checkpoint.save.sharded_save import ShardedSave
from recipes.errors import UserError

# The form of the optimizer state that can be read back under any other layout.
OPTIMIZER_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}

# Settings that are in the optimizer's parameter groups and so in checkpoints too. The present configuration
# takes precedence, or a learning rate changed between two starts would be ignored.
CONFIGURED = ("max_lr", "min_lr", "lr_mult", "wd_mult", "weight_decay", "betas", "eps", "default_config")


def training_state(gpt: GPTModel, optimizer: MegatronOptimizer, plain: dict[str, Any]) -> dict[str, Any]:
    """Weights, optimizer state and ``plain`` data as one sharded state dict."""
    model_state = gpt.sharded_state_dict()
    optimizer_state = optimizer.sharded_state_dict(model_state, metadata=OPTIMIZER_METADATA)
    return {"model": model_state, "optimizer": optimizer_state, **plain}


def save_sharded(directory: Path, state: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes a sharded state dict; ``directory`` appears complete or not at all.

    ``facts`` go into its manifest.

    Raises:
        UserError: the disk is full or refuses; nothing is left behind. Every rank raises it.
    """
    partial = new_partial(directory, NOTHING_LEFT)
    save = ShardedSave(state, partial, directory, NOTHING_LEFT, copied=False)
    save.write()
    publish(save, partial, directory, facts)


def load_checkpoint_weights(directory: Path, gpt: GPTModel) -> None:
    """Reads the weights alone into place, resharded to the present layout.

    Raises:
        UserError: the checkpoint holds other tensors than the model.
    """
    check_metadata(directory)
    load_plain(directory / "common.pt")
    try:
        with only_plain_data():
            loaded = dist_checkpointing.load({"model": gpt.sharded_state_dict()}, str(directory))
    except (CheckpointingException, CheckpointException, KeyError) as error:
        raise UserError(f"{directory}: does not fit the configured model: {reason(error)}") from error
    gpt.load_state_dict(loaded["model"])


def load_training_checkpoint(directory: Path, gpt: GPTModel, optimizer: MegatronOptimizer) -> dict[str, Any]:
    """Reads weights and optimizer state into place, resharded to the present layout; returns the plain data.

    Raises:
        UserError: the checkpoint holds other tensors than the model and its optimizer.
    """
    check_metadata(directory)
    load_plain(directory / "common.pt")
    model_state = gpt.sharded_state_dict()
    state = {
        "model": model_state,
        "optimizer": optimizer.sharded_state_dict(model_state, is_loading=True, metadata=OPTIMIZER_METADATA),
    }
    try:
        with only_plain_data():
            loaded = dist_checkpointing.load(state, str(directory))
    except (CheckpointingException, CheckpointException, KeyError) as error:
        raise UserError(f"{directory}: does not fit the configured model: {reason(error)}") from error
    gpt.load_state_dict(loaded.pop("model"))
    configured = [{key: group[key] for key in CONFIGURED if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(loaded.pop("optimizer"))
    for group, settings in zip(optimizer.param_groups, configured, strict=True):
        group.update(settings)
    return loaded
