"""Whether a run's steps are recorded as CUDA graphs where there is CUDA. No torch here."""

from __future__ import annotations

from recipes.config.cuda_graph import MOST_FLOPS, obstacle
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.plan.accounting import flops_per_token


def records_steps(run: PretrainConfig) -> bool:
    """What trainer.cuda_graph means on a GPU without Transformer Engine."""
    if isinstance(run.trainer.cuda_graph, bool):
        return run.trainer.cuda_graph
    most = max(
        flops_per_token(run.model, each.seq_length) * each.micro_batch_size * each.seq_length
        for each in timeline_of(run).segments
    )
    return most <= MOST_FLOPS and obstacle(run) is None
