"""An exponential moving average of the weights, in fp32, sharded as the optimizer's state is."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from recipes.config.trainer_schema import EmaConfig
from recipes.families.tensors import AVERAGE
from recipes.optim.layer_wise import MuonAdamW
from recipes.optim.own_parts import described_parameters, own_parts, owned_ranges

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
        owned = list(_owned(optimizer))
        self.places = [(parameter, own) for parameter, own, _ in owned]
        """The parameters, and which of their numbers in the order of memory are averaged here."""
        self.mains = [main for _, _, main in owned]
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

    def sharded_state_dict(self, model_state: ShardedStateDict) -> ShardedStateDict:
        """``{number: its parts}`` of the averages that this rank has, to be saved or loaded in place."""
        described = described_parameters(model_state)
        return {
            str(index): own_parts(described[id(parameter)], PREFIX, average.flatten(), own)
            for index, ((parameter, own), average) in enumerate(zip(self.places, self.averages, strict=True))
        }


def _distributed(optimizer: MegatronOptimizer) -> list[DistributedOptimizer]:
    return [part for part in optimizer.chained_optimizers if isinstance(part, DistributedOptimizer)]


def _owned(optimizer: MegatronOptimizer) -> Iterator[tuple[Tensor, range, Tensor]]:
    """The parameters of which this rank updates numbers, which ones, and these in fp32."""
    if isinstance(optimizer, MuonAdamW):
        for parameter, main in optimizer.owned:
            yield parameter, range(parameter.numel()), main
        return
    for part in _distributed(optimizer):
        ranges = dict(owned_ranges(part))
        for parameter in part.model_param_group_index_map:
            yield parameter, ranges[parameter], _main(part, parameter)


def _main(part: DistributedOptimizer, parameter: Tensor) -> Tensor:
    group, place = part.model_param_group_index_map[parameter]
    main: Tensor = part.optimizer.param_groups[group]["params"][place]
    return main
