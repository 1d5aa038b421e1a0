"""Checkpoints as runs wrote them before every rank saved its own part: gathered, by the first rank alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from tests.support.run_cases import Outcome, run_case


def gathering_case(overrides: list[str]) -> Outcome:
    """A run that saves so: the optimizer's state as megatron-core does, the averages of weights as below."""
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from recipes.checkpoint.save import training_state
    from recipes.checkpoint.save.shared_out import SharedOut
    from recipes.optim.ema import Ema

    with (
        patch.object(training_state, "in_place", lambda _: nullcontext()),
        patch.object(SharedOut, "apply", lambda *_: None),
        patch.object(Ema, "sharded_state_dict", averages_as_saved_then),
    ):
        return run_case(overrides)


def averages_as_saved_then(ema: Any, model_state: Any) -> dict[str, Any]:
    """What ``Ema.sharded_state_dict`` returned: ``{number: whole tensor}``."""
    from megatron.core.dist_checkpointing.optimizer import (
        get_param_id_to_sharded_param_map,
        make_sharded_optimizer_tensor,
    )

    from recipes.optim.ema import PREFIX, _distributed
    from recipes.optim.layer_wise import MuonAdamW

    sharded: dict[str, Any] = {}
    if isinstance(ema.optimizer, MuonAdamW):
        shards = get_param_id_to_sharded_param_map(model_state, [p for p, _ in ema.optimizer.owned])
        for index, average in enumerate(ema.averages):
            sharded[str(index)] = make_sharded_optimizer_tensor(shards[index], average, PREFIX)
            sharded[str(index)].replica_id = (*shards[index].replica_id[:2], 0)
        return sharded
    of = {id(main): average for main, average in zip(ema.mains, ema.averages, strict=True)}
    for part in _distributed(ema.optimizer):
        whole = dict(_gathered(part, of))
        shards = get_param_id_to_sharded_param_map(model_state, whole)
        for index, tensor in enumerate(whole.values()):
            sharded[str(len(sharded))] = make_sharded_optimizer_tensor(shards[index], tensor, PREFIX)
    return sharded


def _gathered(part: Any, of: dict[int, Any]) -> Iterator[tuple[Any, Any]]:
    """Every parameter with its whole average, of which each data-parallel rank has a part."""
    import torch
    import torch.distributed as dist

    from recipes.optim.ema import _main

    ranks = part.data_parallel_group.size()
    for buffer, by_type in zip(part.buffers, part.gbuf_ranges, strict=True):
        for of_buckets in by_type.values():
            for bucket, found in zip(buffer.buckets, of_buckets, strict=True):
                size = bucket.grad_data.numel()
                own = torch.zeros(size // ranks, dtype=torch.float32)
                for parameter, places in found["param_map"].items():
                    place = places["gbuf_local"]
                    own[place.start : place.end].copy_(of[id(_main(part, parameter))])
                whole = torch.empty(size, dtype=torch.float32)
                dist.all_gather_into_tensor(whole, own, group=part.data_parallel_group)
                places = buffer.param_index_map
                for parameter in sorted(bucket.params_list, key=lambda each: places[each][0]):
                    begin, end, _ = places[parameter]
                    yield parameter, whole[begin - bucket.offset : end - bucket.offset].view(parameter.shape)
