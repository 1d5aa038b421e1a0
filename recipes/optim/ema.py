"""An exponential moving average of the weights, in fp32, sharded as the optimizer's state is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.dist_checkpointing.optimizer import (
    get_param_id_to_sharded_param_map,
    make_sharded_optimizer_tensor,
)
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from recipes.config.trainer_schema import EmaConfig
from recipes.families.tensors import AVERAGE
from recipes.optim.layer_wise import MuonAdamW

PREFIX = AVERAGE.removesuffix(".")


class Ema:
    """Averages of the main weights that this rank updates: ``ema <- decay ema + (1 - decay) weight``.

    They begin with the weights of the moment. With weights of 16 bits the main ones are the optimizer's fp32
    copies. A step that the device skips leaves the averages as they are.

    Args:
        optimizer: whose weights are averaged.
        config: decay, and how often.
    """

    def __init__(self, optimizer: MegatronOptimizer, config: EmaConfig) -> None:
        assert config.decay is not None
        self.optimizer, self.step_weight, self.every = optimizer, 1.0 - config.decay, config.every_n_steps
        self.mains = [main for _, main in _owned(optimizer)]
        self.averages = [main.detach().clone() for main in self.mains]
        self.steps = 0
        """Of the run, skipped ones included."""
        self._due = False
        self._weight = torch.zeros((), device=torch.cuda.current_device())

    def prepare(self) -> None:
        """The host's part of a step, before it: a recorded step reads what is set here."""
        self.steps += 1
        self._due = self.steps % self.every == 0
        self._weight.fill_(self.step_weight if self._due else 0.0)

    @torch.no_grad()
    def update(self, norm: Tensor) -> None:
        """After an update; ``norm``, ``[]``: of its gradients, which is not finite if it was skipped."""
        if not self._due and not (norm.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        weight = torch.where(norm.isfinite(), self._weight, 0.0)
        for average, main in zip(self.averages, self.mains, strict=True):
            average.lerp_(main, weight)

    @torch.no_grad()
    def begin_again(self) -> None:
        """The averages are the weights as they are now."""
        for average, main in zip(self.averages, self.mains, strict=True):
            average.copy_(main)

    @torch.no_grad()
    def swap(self) -> None:
        """The model computes with the averages, which hold its weights; once more undoes it, to the bit.

        All ranks call it, with parameters that are up to date. It takes room for one tensor.
        """
        for average, main in zip(self.averages, self.mains, strict=True):
            weight = main.clone()
            main.copy_(average)
            average.copy_(weight)
        if isinstance(self.optimizer, MuonAdamW):
            for parameter, main in self.optimizer.owned:
                if main is not parameter:
                    parameter.copy_(main)
            self.optimizer.allgather_params()
            return
        parts = _distributed(self.optimizer)
        for part in parts:
            part._copy_main_params_to_model_params()
        for chunk in parts[0].model_chunks:
            chunk.start_param_sync(force_sync=True)

    # Checkpoints

    def sharded_state_dict(self, model_state: ShardedStateDict, *, loading: bool) -> ShardedStateDict:
        """``{number: sharded tensor}`` of this rank's part of the model, whole over data-parallel ranks."""
        if isinstance(self.optimizer, MuonAdamW):
            return self._sharded_by_owner(self.optimizer, model_state)
        of = {id(main): average for main, average in zip(self.mains, self.averages, strict=True)}
        sharded: dict[str, Any] = {}
        for part in _distributed(self.optimizer):
            whole = _empty(part) if loading else dict(_gathered(part, of))
            shards = get_param_id_to_sharded_param_map(model_state, whole)
            for index, tensor in enumerate(whole.values()):
                sharded[str(len(sharded))] = make_sharded_optimizer_tensor(shards[index], tensor, PREFIX)
        return sharded

    def _sharded_by_owner(self, optimizer: MuonAdamW, model_state: ShardedStateDict) -> ShardedStateDict:
        shards = get_param_id_to_sharded_param_map(model_state, [p for p, _ in optimizer.owned])
        sharded: dict[str, Any] = {}
        for index, average in enumerate(self.averages):
            shard = shards[index]
            sharded[str(index)] = make_sharded_optimizer_tensor(shard, average, PREFIX)
            # The data-parallel part of the replica id is 0: no other rank has this average.
            sharded[str(index)].replica_id = (*shard.replica_id[:2], 0)
        return sharded

    @torch.no_grad()
    def load_state_dict(self, loaded: dict[str, Tensor]) -> None:
        """Takes over what was read for :meth:`sharded_state_dict`."""
        if isinstance(self.optimizer, MuonAdamW):
            for index, average in enumerate(self.averages):
                average.copy_(loaded[str(index)])
            return
        of = {id(main): average for main, average in zip(self.mains, self.averages, strict=True)}
        index = 0
        for part in _distributed(self.optimizer):
            ranges = {p: found for _, found_here in _buckets(part) for p, found in found_here.items()}
            for parameter in _empty(part):
                if parameter in ranges:
                    own = ranges[parameter]["param"]
                    average = of[id(_main(part, parameter))]
                    average.copy_(loaded[str(index)].flatten()[own.start : own.end])
                index += 1


def _distributed(optimizer: MegatronOptimizer) -> list[DistributedOptimizer]:
    return [part for part in optimizer.chained_optimizers if isinstance(part, DistributedOptimizer)]


def _owned(optimizer: MegatronOptimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """The parameters of which this rank updates a part, each with the fp32 numbers of that part."""
    if isinstance(optimizer, MuonAdamW):
        yield from optimizer.owned
        return
    for part in _distributed(optimizer):
        for parameter in part.model_param_group_index_map:
            yield parameter, _main(part, parameter)


def _main(part: DistributedOptimizer, parameter: Tensor) -> Tensor:
    group, place = part.model_param_group_index_map[parameter]
    main: Tensor = part.optimizer.param_groups[group]["params"][place]
    return main


def _buckets(part: DistributedOptimizer) -> Iterator[tuple[tuple[Any, Any], dict[Tensor, Any]]]:
    """Each of DDP's buckets with its buffer, and where in it this rank's parts of parameters lie."""
    for buffer, by_type in zip(part.buffers, part.gbuf_ranges, strict=True):
        for ranges in by_type.values():
            for bucket, found in zip(buffer.buckets, ranges, strict=True):
                yield (buffer, bucket), found["param_map"]


def _empty(part: DistributedOptimizer) -> dict[Tensor, Tensor]:
    """Parameters, in the order of :func:`_gathered` -> room for their whole averages."""
    return {
        parameter: torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
        for (buffer, bucket), _ in _buckets(part)
        for parameter in _inside(buffer, bucket)
    }


def _gathered(part: DistributedOptimizer, of: dict[int, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Every parameter with its whole average, which each data-parallel rank has a part of."""
    ranks = part.data_parallel_group.size()
    for (buffer, bucket), ranges in _buckets(part):
        if ranks == 1:  # Nothing to gather: the averages themselves.
            for parameter in _inside(buffer, bucket):
                yield parameter, of[id(_main(part, parameter))].view(parameter.shape)
            continue
        size = bucket.grad_data.numel()
        own = torch.zeros(size // ranks, dtype=torch.float32, device=bucket.grad_data.device)
        for parameter, found in ranges.items():
            place = found["gbuf_local"]
            own[place.start : place.end].copy_(of[id(_main(part, parameter))])
        whole = torch.empty(size, dtype=torch.float32, device=own.device)
        dist.all_gather_into_tensor(whole, own, group=part.data_parallel_group)
        whole = whole.cpu()
        for parameter in _inside(buffer, bucket):
            begin, end, _ = buffer.param_index_map[parameter]
            yield parameter, whole[begin - bucket.offset : end - bucket.offset].view(parameter.shape)


def _inside(buffer: Any, bucket: Any) -> list[Tensor]:
    """A bucket's parameters in the order of their places."""
    return sorted(bucket.params_list, key=lambda parameter: buffer.param_index_map[parameter][0])
