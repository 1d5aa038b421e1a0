"""The layouts of a run that the trainer accepts and that fit, by speed. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.schema import ParallelConfig, PretrainConfig
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.plan.run_plan import RunPlan, plan_run

MOST_STAGES = 16
MOST_CONTEXT = 8


@dataclass(frozen=True)
class Found:
    """What a search has seen."""

    plans: list[RunPlan]
    """Those that fit, the fastest first."""
    too_large: int
    """Layouts that memory is too small for."""
    refused: int
    """Layouts that the trainer does not accept."""
    smallest: RunPlan | None = None
    """Of those that are too large."""


def search(config: PretrainConfig, cluster: ClusterConfig) -> Found:
    """Every layout of the run on the cluster.

    Sizes of parallel groups are powers of two: tensor parallelism inside a node, up to 16 stages, up to 8
    parts of a sequence, every expert-parallel size that divides the experts; micro-batches of 1 to 16
    and the run's own; nothing, or whole layers recomputed. The global batch, the overlaps and all other
    settings are the run's.

    Raises:
        UserError: the cluster, or a setting that is not part of the layout, is impossible.
    """
    plans, too_large, refused = [], 0, 0
    smallest: RunPlan | None = None
    first: UserError | None = None
    for candidate in _candidates(config, cluster):
        try:
            plan = plan_run(candidate, cluster)
        except UserError as error:
            refused, first = refused + 1, first or error
            continue
        if plan.fits:
            plans.append(plan)
        else:
            too_large += 1
            smallest = min(smallest or plan, plan, key=lambda each: sum(each.memory.values()))
    if not plans and not too_large and first is not None:
        raise first
    return Found(sorted(plans, key=lambda plan: plan.step.seconds), too_large, refused, smallest)


def _candidates(config: PretrainConfig, cluster: ClusterConfig) -> Iterator[PretrainConfig]:
    gpus = cluster.nodes * cluster.gpus_per_node
    sizes = product(
        _powers(min(cluster.gpus_per_node, gpus)),
        _powers(min(MOST_STAGES, config.model.num_layers, gpus)),
        _powers(min(MOST_CONTEXT, gpus)),
        _expert_sizes(config.model, gpus),
        sorted({1, 2, 4, 8, 16, config.trainer.micro_batch_size}),
        (False, True),
    )
    for tp, pp, cp, ep, micro_batch_size, recompute in sizes:
        if gpus % (tp * pp * cp):
            continue
        parallel = replace(
            config.parallel,
            tensor_model_parallel_size=tp,
            sequence_parallel=tp > 1,
            pipeline_model_parallel_size=pp,
            num_layers_in_first_pipeline_stage=None,
            num_layers_in_last_pipeline_stage=None,
            context_parallel_size=cp,
            expert_model_parallel_size=ep,
            expert_tensor_parallel_size=None if config.model.num_moe_experts is None else 1,
            recompute_granularity="full" if recompute else None,
            recompute_method="uniform" if recompute else None,
            recompute_num_layers=1 if recompute else None,
            recompute_modules=[],
        )
        trainer = replace(config.trainer, micro_batch_size=micro_batch_size)
        yield replace(config, parallel=parallel, trainer=trainer)


def _powers(most: int) -> list[int]:
    return [2**exponent for exponent in range(most.bit_length()) if 2**exponent <= most]


def _expert_sizes(model: ModelConfig, gpus: int) -> list[int]:
    experts = model.num_moe_experts or 1
    return [size for size in range(1, min(experts, gpus) + 1) if experts % size == 0]


def settings_of(parallel: ParallelConfig, micro_batch_size: int, model: ModelConfig) -> str:
    """A layout as settings for recipes.pretrain."""
    settings = {
        "parallel.tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "parallel.sequence_parallel": str(parallel.sequence_parallel).lower(),
        "parallel.pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "parallel.context_parallel_size": parallel.context_parallel_size,
        "trainer.micro_batch_size": micro_batch_size,
    }
    if model.num_moe_experts is not None:
        settings["parallel.expert_model_parallel_size"] = parallel.expert_model_parallel_size
        settings["parallel.expert_tensor_parallel_size"] = parallel.expert_tensor_parallel_size or 1
    if parallel.recompute_granularity == "full":
        settings["parallel.recompute_granularity"] = "full"
        settings["parallel.recompute_method"] = "uniform"
        settings["parallel.recompute_num_layers"] = 1
    return " ".join(f"{key}={value}" for key, value in settings.items())
