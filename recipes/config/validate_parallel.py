"""Refuses layouts that the model or the launched processes cannot have."""

from __future__ import annotations

from recipes.config.checks import positive, refuse
from recipes.config.schema import ModelConfig, ParallelConfig
from recipes.config.world import launched_world
from recipes.model.accounting import num_query_groups, padded_vocab_size


def validate_parallel(parallel: ParallelConfig, model: ModelConfig, *, check_launcher: bool) -> int:
    """Checks the layout against the model and the launcher; returns the data-parallel size."""
    for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"):
        positive(f"parallel.{key}", getattr(parallel, key))
    if parallel.world_size is not None:
        positive("parallel.world_size", parallel.world_size)
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    divisible = {
        "model.num_attention_heads": model.num_attention_heads,
        "model.num_query_groups": num_query_groups(model),
        "model.ffn_hidden_size": model.ffn_hidden_size,
        "model.hidden_size": model.hidden_size,
        "padded vocabulary": padded_vocab_size(model),
    }
    for key, value in divisible.items():
        if value % tp:
            refuse(
                "parallel.tensor_model_parallel_size", tp, f"does not divide {key}={value}; choose a divisor"
            )
    if model.num_layers % pp:
        refuse(
            "parallel.pipeline_model_parallel_size",
            pp,
            f"does not divide model.num_layers={model.num_layers}",
        )
    if parallel.expert_model_parallel_size > 1:
        refuse(
            "parallel.expert_model_parallel_size",
            parallel.expert_model_parallel_size,
            f"the {model.family} family has no experts; leave it at 1",
        )
    if parallel.sequence_parallel and tp == 1:
        refuse("parallel.sequence_parallel", True, "needs tensor_model_parallel_size > 1")
    if parallel.overlap_param_gather and not parallel.overlap_grad_reduce:
        refuse("parallel.overlap_param_gather", True, "needs parallel.overlap_grad_reduce=true")
    launched = launched_world().size
    world_size = parallel.world_size or launched
    if check_launcher and world_size != launched:
        refuse(
            "parallel.world_size",
            world_size,
            f"but {launched} process(es) were launched; use torchrun --nproc-per-node, or leave it null",
        )
    if world_size % (tp * pp):
        refuse(
            "parallel",
            f"tensor {tp} x pipeline {pp}",
            f"needs a multiple of {tp * pp} processes, there are {world_size}; "
            f"launch with torchrun --nproc-per-node {tp * pp}",
        )
    return world_size // (tp * pp)
