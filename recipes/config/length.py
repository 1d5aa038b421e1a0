"""How long a run is."""

from __future__ import annotations

from recipes.config.schema import PretrainConfig


def total_steps(config: PretrainConfig) -> int:
    """Optimizer steps of the whole run: what max_steps or max_tokens reaches first."""
    tokens_per_step = config.trainer.global_batch_size * config.data.seq_length
    limits = []
    if config.trainer.max_steps is not None:
        limits.append(config.trainer.max_steps)
    if config.trainer.max_tokens is not None:
        limits.append(-(-config.trainer.max_tokens // tokens_per_step))
    return min(limits)
