"""What a described run costs on a cluster: memory, communication, time, energy. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes.checks import refuse
from recipes.config.cluster_schema import ClusterConfig
from recipes.config.devices import GPUS
from recipes.config.lengths import total_steps
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import Segment, timeline_of
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
    """With the cluster's number of processes, and the sizes of the steps that most tokens are read by."""
    cluster: ClusterConfig
    data_parallel_size: int
    memory: dict[str, int]
    """Bytes of the fullest GPU at the peak of a step, by part."""
    step: StepTime
    """One of those."""
    steps: int
    tokens: int
    seconds: float
    """Of the whole run, whose phases may have steps of other sizes."""

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
        return self.seconds / 3600

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
    timeline, steps = timeline_of(config), total_steps(config)
    parts = timeline.before(steps)
    counts = [end - part.first_step for part, end in zip(parts, _ends(parts, steps), strict=True)]
    times = [step_time(_in_segment(config, part), cluster, data_parallel_size) for part in parts]
    most = max(range(len(parts)), key=lambda place: counts[place] * parts[place].tokens_per_step)
    return RunPlan(
        _in_segment(config, parts[most]),
        cluster,
        data_parallel_size,
        memory,
        times[most],
        steps,
        timeline.tokens(steps),
        sum(count * time.seconds for count, time in zip(counts, times, strict=True)),
    )


def _ends(parts: list[Segment], steps: int) -> list[int]:
    return [*(part.first_step for part in parts[1:]), steps]


def _in_segment(config: PretrainConfig, part: Segment) -> PretrainConfig:
    """With the sizes of the segment's steps as the run's own."""
    trainer = replace(
        config.trainer, global_batch_size=part.global_batch_size, micro_batch_size=part.micro_batch_size
    )
    return replace(config, trainer=trainer, data=replace(config.data, seq_length=part.seq_length))
