"""What a run prints first, before torch is imported."""

from __future__ import annotations

from recipes.config.lengths import total_steps
from recipes.config.run_directory import run_directory_of
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import Timeline, timeline_of
from recipes.counts import counted
from recipes.plan.accounting import count_parameters
from recipes.plan.dry_run import layout


def opening(config: PretrainConfig, world_size: int) -> list[str]:
    """Lines about the run, its model, its batches and its layout."""
    parallel, timeline, steps = config.parallel, timeline_of(config), total_steps(config)
    model_parallel_size = (
        parallel.tensor_model_parallel_size
        * parallel.pipeline_model_parallel_size
        * parallel.context_parallel_size
    )
    counts = count_parameters(config.model)
    active = f", {counts.active_per_token:,} active per token" if config.model.num_moe_experts else ""
    processes = counted(world_size, "process", "processes")
    return [
        f"run    {run_directory_of(config).path}: metrics.jsonl, checkpoints/, at the end model.nemo",
        f"model  {counts.total:,} parameters{active}",
        f"batch  {_tokens_per_step(timeline, steps)}, {counted(steps, 'step')}, "
        f"{timeline.tokens(steps):,} tokens in all",
        f"layout {processes}: {layout(parallel, world_size // model_parallel_size)}",
    ]


def _tokens_per_step(timeline: Timeline, steps: int) -> str:
    """Of a run of so many steps, in words."""
    parts = timeline.before(steps)
    least, most = min(each.tokens_per_step for each in parts), max(each.tokens_per_step for each in parts)
    if least < most:
        return f"{least:,} to {most:,} tokens per step"
    sizes = dict.fromkeys((each.global_batch_size, each.seq_length) for each in parts)
    return f"{most:,} tokens per step (" + ", ".join(f"{batch} x {length}" for batch, length in sizes) + ")"
