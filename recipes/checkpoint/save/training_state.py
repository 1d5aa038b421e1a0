"""Training checkpoints: megatron-core's torch_dist format, the same files under every parallel layout."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint.api import CheckpointException
from torch.nn import Parameter

from recipes.checkpoint.formats.safety import check_metadata, load_plain, only_plain_data, reason
from recipes.checkpoint.save.between import BetweenSaves
from recipes.checkpoint.save.disk import NOTHING_LEFT
from recipes.checkpoint.save.in_place import in_place
from recipes.checkpoint.save.publish import new_partial, publish
from recipes.checkpoint.save.sharded_save import ShardedSave
from recipes.errors import UserError
from recipes.families.tensors import AVERAGE
from recipes.optim.adamw import AdamW
from recipes.optim.ema import PREFIX, Ema

# The form of the optimizer state that can be read back under any other layout.
OPTIMIZER_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}

# What a run has made of a parameter group. All else in groups are settings, of which the present ones count.
STATE_OF_GROUPS = ("params", "step")


def training_state(
    gpt: GPTModel, optimizer: MegatronOptimizer, plain: dict[str, Any], ema: Ema | None = None
) -> dict[str, Any]:
    """Weights, their average, optimizer state and ``plain`` data as one sharded state dict."""
    model_state = gpt.sharded_state_dict()
    _copy_buffers(model_state)
    for part in optimizer.chained_optimizers:
        if isinstance(part.optimizer, AdamW):  # If no step has been taken: all overflowed in fp16, say.
            part.optimizer.initialize_state()
    # megatron-core collects garbage here, which looks at all of the half a million objects of loaded modules:
    # 0.1 s and more. Frozen ones are left out.
    gc.freeze()
    try:
        with in_place(optimizer):
            optimizer_state = optimizer.sharded_state_dict(model_state, metadata=OPTIMIZER_METADATA)
    finally:
        gc.unfreeze()
    _to_host(optimizer_state)
    averages = {} if ema is None else {PREFIX: ema.sharded_state_dict(model_state)}
    return {"model": model_state, "optimizer": optimizer_state, **averages, **plain}


def _copy_buffers(model_state: dict[str, Any]) -> None:
    """Copies, on the device, what is no parameter: routers' biases change already before an update, which is
    what waits for a save's copies. They are small.
    """
    for shard in nested_values(model_state):
        if isinstance(shard, ShardedTensor) and not isinstance(shard.data, Parameter):
            shard.data = shard.data.clone() if shard.data is not None else None


def _to_host(state: Any) -> None:
    """fp16's loss scale is a tensor on the device, and common.pt is to be read anywhere."""
    if isinstance(state, dict):
        if "grad_scaler" in state:
            scaler = state["grad_scaler"]
            state["grad_scaler"] = {**scaler, "scale": scaler["scale"].cpu()} if scaler else scaler
        for part in state.values():
            _to_host(part)


def save_sharded(
    directory: Path, state: dict[str, Any], facts: Mapping[str, Any], between: BetweenSaves
) -> None:
    """Writes a sharded state dict; ``directory`` appears complete or not at all.

    ``facts`` go into its manifest.

    Raises:
        UserError: the disk is full or refuses; nothing is left behind. Every rank raises it.
    """
    partial = new_partial(directory, NOTHING_LEFT)
    save = ShardedSave(state, partial, directory, NOTHING_LEFT, copied=False, between=between)
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


def load_training_checkpoint(
    directory: Path, gpt: GPTModel, optimizer: MegatronOptimizer, ema: Ema | None = None
) -> dict[str, Any]:
    """Reads weights and optimizer state into place, resharded to the present layout; returns the plain data.

    ``ema``: if the checkpoint has no average of the weights, it begins with those that were read.

    Raises:
        UserError: the checkpoint holds other tensors than the model and its optimizer.
    """
    stored_keys = check_metadata(directory).state_dict_metadata
    has_average = any(key.startswith(AVERAGE) for key in stored_keys)
    load_plain(directory / "common.pt")
    # First, as already the next call gives groups the settings of others with the same wd_mult.
    settings = [_settings(group) for group in optimizer.param_groups]
    model_state = gpt.sharded_state_dict()
    with in_place(optimizer):
        optimizer_state = optimizer.sharded_state_dict(
            model_state, is_loading=True, metadata=OPTIMIZER_METADATA
        )
    state = {"model": model_state, "optimizer": optimizer_state}
    if ema is not None and has_average:
        state[PREFIX] = ema.sharded_state_dict(model_state)
    try:
        with only_plain_data():
            loaded = dist_checkpointing.load(state, str(directory))
    except (CheckpointingException, CheckpointException, KeyError) as error:
        raise UserError(f"{directory}: does not fit the configured model: {reason(error)}") from error
    gpt.load_state_dict(loaded.pop("model"))
    stored = loaded.pop("optimizer")
    _regroup(stored, settings)
    with in_place(optimizer):
        optimizer.load_state_dict(stored)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        kept = {key: group[key] for key in STATE_OF_GROUPS if key in group}
        group.clear()
        group.update(own | kept)
    if ema is not None:
        if has_average:
            loaded.pop(PREFIX)  # Read into place.
        else:
            ema.begin_again()
    return loaded


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in STATE_OF_GROUPS}


def _regroup(stored: Any, settings: list[dict[str, Any]]) -> None:
    """Gives a stored optimizer the present groups: optim.groups may have changed, and megatron-core looks
    up each group by its settings. All groups count the same steps.
    """
    if not isinstance(stored, dict):
        return
    groups = stored.get("param_groups")
    if isinstance(groups, list):
        steps = [group["step"] for group in groups if "step" in group]
        counted = {"step": steps[0]} if steps else {}
        stored["param_groups"] = [own | counted for own in settings]
    for part in stored.values():
        _regroup(part, settings)
