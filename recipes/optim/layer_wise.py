"""Muon and AdamW in one optimizer, with whole parameters distributed over data-parallel ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedStateDict, ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import (
    get_param_id_to_sharded_param_map,
    make_sharded_optimizer_tensor,
)
from megatron.core.optimizer import OptimizerConfig
from megatron.core.optimizer.layer_wise_optimizer import LayerWiseDistributedOptimizer
from megatron.core.optimizer.optimizer import FP32Optimizer
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from recipes.optim.matrices import MatrixLayout
from recipes.optim.muon import Muon


class MuonAdamW(LayerWiseDistributedOptimizer):
    """megatron-core's layer-wise optimizer around a :class:`Muon` and an AdamW.

    Gradients are reduced to all ranks; each rank updates the parameters that it owns, keeps state and (with
    bf16 weights) float32 copies only for those, and sends them to the others. All of this is megatron-core's
    except for three things: its own sending copies the whole model once more and needs NCCL; its checkpoints
    can be read only under the same layout, these under any; and where only experts have several data-parallel
    ranks, it lets every rank own all experts.

    Args:
        muon, adamw: over all parameters of this rank's model, without state so far.
        layouts: of every parameter that Muon trains.
    """

    def __init__(
        self,
        muon: Muon,
        adamw: torch.optim.Optimizer,
        config: OptimizerConfig,
        layouts: dict[nn.Parameter, MatrixLayout],
    ) -> None:
        self.muon, self.adamw = muon, adamw
        self.num_steps = 0
        parameters = [p for each in (muon, adamw) for group in each.param_groups for p in group["params"]]
        groups = ProcessGroupCollection.use_mpu_process_groups()
        optimizers: list[Any] = [muon, adamw]
        if not config.bf16:
            optimizers = [FP32Optimizer(optimizer, config, _no_state) for optimizer in optimizers]
        super().__init__(optimizers, config, groups, [_no_state, _no_state] if config.bf16 else None)
        # The optimizers now hold this rank's share of the parameters, with float32 copies of bf16 ones.
        mains = [(p, getattr(p, "main_param", p)) for p in parameters]
        held = {id(p) for group in self.param_groups for p in group["params"]}
        self.owned = [(p, main) for p, main in mains if id(main) in held]
        muon.layouts = {main: layouts[p] for p, main in self.owned if p in layouts}

    def shard_params(self, optimizers: list[Any]) -> None:
        """Keeps in the optimizers' groups only what this rank owns, and lists what every rank owns."""
        super().shard_params(optimizers)
        groups = self.pg_collection
        assert groups is not None
        if groups.dp_cp.size() > 1 or groups.expt_dp.size() == 1:
            return
        # Whole experts on several tensor-parallel ranks, with a single data-parallel rank for the rest: here
        # megatron-core (0.16.1) distributes nothing, so each expert would count twice in the gradient norm
        # and have two owners in a checkpoint.
        experts = [g for o in optimizers for g in o.param_groups if g["is_expert_parallel"]]
        by_size = sorted((p for g in experts for p in g["params"]), key=torch.numel)
        ranks = groups.expt_dp.size()
        self.expt_dp_params_list = [by_size[rank::ranks] for rank in range(ranks)]
        owned = {id(p) for p in self.expt_dp_params_list[groups.expt_dp.rank()]}
        for group in experts:
            group["params"] = [p for p in group["params"] if id(p) in owned]

    def step(self) -> Any:
        self.num_steps += 1
        return super().step()

    @torch.no_grad()
    def allgather_params(self) -> None:
        """Every owner sends its updated parameters, in place."""
        groups = self.pg_collection
        assert groups is not None
        pending = []
        for owners, group in (
            (self.dp_cp_params_list, groups.dp_cp),
            (self.expt_dp_params_list, groups.expt_dp),
        ):
            for rank, params in enumerate(owners or []):
                source = dist.get_global_rank(group, rank)
                pending += [dist.broadcast(p.data, source, group, async_op=True) for p in params]
        for each in pending:
            each.wait()

    # Checkpoints: state is stored under the parameters' canonical names, so that another layout finds it.

    def sharded_state_dict(
        self, model_sharded_state_dict: ShardedStateDict, is_loading: bool = False, **_: Any
    ) -> ShardedStateDict:
        """``{"num_steps": int, "state": {index in ``owned``: {key: sharded tensor}}}``."""
        self._initialize_state()
        shards = get_param_id_to_sharded_param_map(model_sharded_state_dict, [p for p, _ in self.owned])
        state = {str(i): self._sharded_state(shards[i], *owned) for i, owned in enumerate(self.owned)}
        return {"num_steps": self.num_steps, "state": state}

    def _sharded_state(
        self, shard: ShardedTensor | ShardedTensorFactory, parameter: Tensor, main: Tensor
    ) -> dict[str, Any]:
        tensors = dict(self._state_of(main))
        second_moments = tensors.pop("second_moments", [])
        if main is not parameter:
            tensors["fp32_param"] = main
        sharded: dict[str, Any] = {}
        for key, tensor in tensors.items():
            sharded[key] = make_sharded_optimizer_tensor(shard, tensor, f"optimizer.state.{key}")
            # The data-parallel part of the replica id is 0: no other rank has this state.
            sharded[key].replica_id = (*shard.replica_id[:2], 0)
        for index, moment in enumerate(second_moments):
            key = f"second_moment_{index}"
            sharded[key] = whole_vector(
                shard, moment, f"optimizer.state.{key}", self._tensor_rank(shard, main)
            )
        return sharded

    def _state_of(self, main: Tensor) -> dict[str, Any]:
        return (self.muon if main in self.muon.layouts else self.adamw).state[main]

    def _initialize_state(self) -> None:
        self.muon.initialize_state()
        for group in self.adamw.param_groups:
            for p in group["params"]:
                if not self.adamw.state[p]:
                    self.adamw.state[p] = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}

    def _tensor_rank(self, shard: ShardedTensor | ShardedTensorFactory, main: Tensor) -> int:
        """This rank's replica number for tensors that are whole on all tensor-parallel ranks."""
        group = self.muon.layouts[main].group
        return int(group.rank() if group is not None else shard.replica_id[1])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what was read for :meth:`sharded_state_dict`."""
        self.num_steps = int(state_dict["num_steps"])
        if self.num_steps:
            for group in self.adamw.param_groups:
                group["step"] = self.num_steps
        for i, (parameter, main) in enumerate(self.owned):
            loaded = state_dict["state"][str(i)]
            for key, tensor in self._state_of(main).items():
                if key == "second_moments":
                    for index, moment in enumerate(tensor):
                        moment.copy_(loaded[f"second_moment_{index}"])
                else:
                    tensor.copy_(loaded[key])
            if main is not parameter:
                main.data.copy_(loaded["fp32_param"])


def whole_vector(
    shard: ShardedTensor | ShardedTensorFactory, vector: Tensor, prefix: str, tensor_rank: int
) -> ShardedTensor:
    """A checkpoint's entry for a vector ``[k]`` that belongs to a parameter, whole on tensor-parallel ranks.

    It is found by the parameter's name and, where layers or experts are stacked under one name, its index.
    """
    parts = nested_values(shard.build()) if isinstance(shard, ShardedTensorFactory) else iter((shard,))
    part: ShardedTensor = next(iter(parts))
    leading = part.prepend_axis_num
    return ShardedTensor(
        f"{prefix}.{shard.key}",
        vector,
        vector.dtype,
        tuple(vector.shape),
        (*part.global_shape[:leading], len(vector)),
        (*part.global_offset[:leading], 0),
        (*part.axis_fragmentations[:leading], 1),
        replica_id=(shard.replica_id[0], tensor_rank, 0),
        prepend_axis_num=leading,
    )


def _no_state(*_: Any) -> None:
    """For megatron-core's wrappers: state is made in :meth:`MuonAdamW.sharded_state_dict`."""
