"""What a described run costs on a cluster: memory, communication, time, energy. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes.checks import refuse
from recipes.config.cluster_schema import ClusterConfig
from recipes.config.devices import GPUS
from recipes.config.lengths import total_steps
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.config.validate_cluster import validate_cluster
from recipes.plan.memory import run_memory
from recipes.plan.step_time import StepTime, step_time

FRAGMENTATION = 0.05
"""Assumed of activations and logits: torch keeps more than it has given out."""
USABLE = 0.94
"""Of a GPU's memory: the rest is for NCCL's buffers and for peaks that the estimate does not see."""


@dataclass(frozen=True)
class RunPlan:
    """Figures of one layout."""

    config: PretrainConfig
    """With the cluster's number of processes."""
    cluster: ClusterConfig
    data_parallel_size: int
    memory: dict[str, int]
    """Bytes of the fullest GPU at the peak of a step, by part."""
    step: StepTime
    steps: int

    @property
    def gpus(self) -> int:
        return self.cluster.nodes * self.cluster.gpus_per_node

    @property
    def capacity(self) -> int:
        """Bytes of one GPU."""
        return GPUS[self.cluster.hardware.gpu].memory

    @property
    def fits(self) -> bool:
        return sum(self.memory.values()) <= USABLE * self.capacity

    @property
    def micro_batches(self) -> int:
        trainer = self.config.trainer
        return trainer.global_batch_size // (trainer.micro_batch_size * self.data_parallel_size)

    @property
    def hours(self) -> float:
        return self.steps * self.step.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus

    @property
    def energy_kwh(self) -> float | None:
        """None: the GPUs' power is unknown."""
        hardware = self.cluster.hardware
        if hardware.gpu_power_w is None:
            return None
        watts = self.gpus * hardware.gpu_power_w + self.cluster.nodes * hardware.node_power_w
        return watts * hardware.pue * self.hours / 1000

    @property
    def price(self) -> float | None:
        """None: no price is known."""
        each = self.cluster.hardware.price_per_gpu_hour
        return None if each is None else each * self.gpu_hours


def on_cluster(config: PretrainConfig, cluster: ClusterConfig) -> PretrainConfig:
    """The run with one process for each GPU of the cluster, as a plan: nothing needs to have been launched.

    Raises:
        UserError: the cluster is impossible, or the run's precision is one whose speed is not known.
    """
    gpus = validate_cluster(cluster)
    if config.trainer.precision not in ("auto", "bf16"):
        refuse("trainer.precision", config.trainer.precision, "plans are for bf16, whose speed is known")
    plan = replace(config.plan, device=cluster.hardware.gpu)
    return replace(config, dry_run=True, parallel=replace(config.parallel, world_size=gpus), plan=plan)


def plan_run(config: PretrainConfig, cluster: ClusterConfig) -> RunPlan:
    """The plan of a described run.

    Raises:
        UserError: the cluster or the run is impossible, as for training.
    """
    config = on_cluster(config, cluster)
    data_parallel_size = validate_pretrain(config)
    memory = run_memory(config, data_parallel_size, on_cuda=True)
    memory["fragmentation"] = int(FRAGMENTATION * (memory["activations"] + memory["logits and loss"]))
    step = step_time(config, cluster, data_parallel_size)
    return RunPlan(config, cluster, data_parallel_size, memory, step, total_steps(config))
