"""How long a step takes on a cluster, and on what. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.devices import GPUS
from recipes.config.schema import PretrainConfig
from recipes.config.stages import stage_sizes
from recipes.plan.accounting import flops_per_token
from recipes.plan.kernels import Kernels, stage_kernels
from recipes.plan.stages import stage_tables
from recipes.plan.traffic import Traffic, data_traffic, micro_batch_traffic, pipeline_traffic


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step of the slowest rank, by what it does."""

    kernels: float
    recomputation: float
    communication: float
    """That nothing hides."""
    bubble: float
    """In which the slowest stage waits for the others, at the step's beginning and end."""
    optimizer: float
    traffic: tuple[Traffic, ...]
    """Of a step, hidden or not."""
    tokens_per_second: float
    """Of one GPU."""
    mfu: float

    @property
    def seconds(self) -> float:
        return self.kernels + self.recomputation + self.communication + self.bubble + self.optimizer


def bubble_share(stages: int, micro_batches: int, chunks: int = 1) -> float:
    """Idle time of a pipeline over its working time, with ``chunks`` runs of layers for each stage.

    Narayanan et al. 2021 (arXiv 2104.04473): (p - 1) / (m v).
    """
    return (stages - 1) / (micro_batches * chunks)


def step_time(config: PretrainConfig, cluster: ClusterConfig, data_parallel_size: int) -> StepTime:
    """Of the described run, in bf16.

    Under 1F1B the slowest stage works on every micro-batch, and waits while the others do their first and
    last one.
    """
    model, parallel, trainer = config.model, config.parallel, config.trainer
    micro_batches = trainer.global_batch_size // (trainer.micro_batch_size * data_parallel_size)
    tokens = trainer.micro_batch_size * config.data.seq_length // parallel.context_parallel_size
    stages = stage_kernels(
        model, config.optim, parallel, cluster.hardware,
        micro_batch_size=trainer.micro_batch_size,
        seq_length=config.data.seq_length,
        data_parallel_size=data_parallel_size,
    )  # fmt: skip
    sizes = stage_sizes(model, parallel)
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    within = [
        micro_batch_traffic(
            model, parallel, cluster, range(first, first + count), tokens=tokens,
            data_parallel_size=data_parallel_size,
        )
        for first, count in zip(firsts, sizes, strict=True)
    ]  # fmt: skip
    each = [
        stage.micro_batch + sum(traffic.exposed for traffic in inner)
        for stage, inner in zip(stages, within, strict=True)
    ]
    slowest = max(range(len(each)), key=each.__getitem__)
    stage, inner = stages[slowest], within[slowest]
    between = pipeline_traffic(
        model, parallel, cluster, tokens=tokens, sends=micro_batches + len(sizes) - 1,
        shards=data_parallel_size * parallel.context_parallel_size,
    )  # fmt: skip
    table = stage_tables(model, sizes)[slowest]
    shared = data_traffic(
        table, parallel, cluster, data_parallel_size=data_parallel_size,
        forward=stage.forward, backward=stage.backward + stage.recomputed,
    )  # fmt: skip
    per_step = [_times(traffic, micro_batches) for traffic in inner] + shared
    per_step += [between] if between is not None else []
    communication = sum(traffic.exposed for traffic in per_step)
    return _rated(config, cluster, stage, micro_batches, communication, sum(each) - each[slowest], per_step)


def _rated(
    config: PretrainConfig,
    cluster: ClusterConfig,
    stage: Kernels,
    micro_batches: int,
    communication: float,
    bubble: float,
    traffic: list[Traffic],
) -> StepTime:
    kernels = micro_batches * (stage.forward + stage.backward)
    again = micro_batches * stage.recomputed
    seconds = kernels + again + communication + bubble + stage.optimizer
    tokens = config.trainer.global_batch_size * config.data.seq_length
    speed = tokens / seconds / (cluster.nodes * cluster.gpus_per_node)
    peak = GPUS[cluster.hardware.gpu].peak_flops
    assert peak is not None
    mfu = speed * flops_per_token(config.model, config.data.seq_length) / peak
    return StepTime(kernels, again, communication, bubble, stage.optimizer, tuple(traffic), speed, mfu)


def _times(traffic: Traffic, count: int) -> Traffic:
    return Traffic(
        traffic.name, traffic.operation, traffic.group,
        count * traffic.bytes, count * traffic.seconds, count * traffic.exposed,
    )  # fmt: skip
