"""Which runs' steps can be recorded as CUDA graphs. No torch here."""

from __future__ import annotations

from recipes.config.schema import PretrainConfig
from recipes.families.family import draws_random_numbers

MOST_FLOPS = 1e13
"""trainer.cuda_graph=auto: of a micro-batch, forward and backward. They take a large GPU some 20 ms, about
as long as a slow host takes to launch a small model's kernels."""


def obstacle(run: PretrainConfig) -> str | None:
    """The setting that keeps a step of the run from being recorded, with the reason; None: there is none."""
    parallel, model = run.parallel, run.model
    sizes = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
    for key in sizes:
        if (size := getattr(parallel, key)) > 1:
            return f"parallel.{key}={size}: its ranks exchange tensors inside of a micro-batch"
    if parallel.overlap_grad_reduce:
        return "parallel.overlap_grad_reduce=true: its communication begins inside of a micro-batch"
    if run.trainer.precision == "fp16":
        return "trainer.precision=fp16: the host decides on its loss scale"
    if model.num_moe_experts is not None:
        return f"model.num_moe_experts={model.num_moe_experts}: the host must know how many tokens each gets"
    if draws_random_numbers(model):
        return "dropout or noise: its random state changes from step to step"
    if parallel.recompute_granularity is not None:
        return f"parallel.recompute_granularity={parallel.recompute_granularity}: it stores random states"
    if model.megatron.get("cuda_graph_impl", "none") != "none":
        return (
            f"model.megatron.cuda_graph_impl={model.megatron['cuda_graph_impl']}: those are megatron-core's"
        )
    return None
