"""What a run prints first, before torch is imported."""

from __future__ import annotations

from recipes.config.lengths import total_steps
from recipes.config.run_directory import run_directory_of
from recipes.config.schema import PretrainConfig
from recipes.plan.accounting import count_parameters
from recipes.plan.dry_run import layout


def opening(config: PretrainConfig, world_size: int) -> list[str]:
    """Lines about the run, its model, its batches and its layout."""
    parallel, batch, length = config.parallel, config.trainer.global_batch_size, config.data.seq_length
    steps = total_steps(config)
    model_parallel_size = (
        parallel.tensor_model_parallel_size
        * parallel.pipeline_model_parallel_size
        * parallel.context_parallel_size
    )
    counts = count_parameters(config.model)
    active = f", {counts.active_per_token:,} active per token" if config.model.num_moe_experts else ""
    return [
        f"run    {run_directory_of(config).path}: metrics.jsonl, checkpoints/, at the end model.nemo",
        f"model  {counts.total:,} parameters{active}",
        f"batch  {batch * length:,} tokens per step ({batch} x {length}), {steps:,} steps, "
        f"{steps * batch * length:,} tokens in all",
        f"layout {world_size} process(es): {layout(parallel, world_size // model_parallel_size)}",
    ]
