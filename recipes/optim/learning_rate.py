"""Sets the learning rate and weight decay of every parameter group, step by step."""

from __future__ import annotations

from megatron.core.optimizer import MegatronOptimizer

from recipes.config.schedule import Schedule
from recipes.config.schema import OptimConfig


class LearningRate:
    """Keeps an optimizer's groups at a run's schedule.

    megatron-core's OptimizerParamScheduler knows one schedule from a run's first step to its last; phases may
    have one each. A group with a rate of its own (``max_lr``) keeps its ratio to optim.lr. One with a weight
    decay of its own has it as ``end_wd``.
    """

    def __init__(self, optim: OptimConfig, schedule: Schedule, optimizer: MegatronOptimizer) -> None:
        self.optim, self.schedule, self.optimizer = optim, schedule, optimizer
        self.set(0)

    def set(self, step: int) -> float:
        """For the update that follows ``step`` earlier updates; returns that of optim.lr."""
        optim, rate = self.optim, self.schedule.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (group.get("max_lr", optim.lr) / optim.lr)
            decay: float = group.get("end_wd", optim.weight_decay)
            group["weight_decay"] = decay * group.get("wd_mult", 1.0)
        return rate
