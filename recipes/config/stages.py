"""How layers are divided over pipeline stages."""

from __future__ import annotations

from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig


def stage_sizes(model: ModelConfig, parallel: ParallelConfig) -> list[int]:
    """Layers of each pipeline stage, where some stages have a count of their own."""
    first, last = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
    given = [layers for layers in (first, last) if layers is not None]
    others = parallel.pipeline_model_parallel_size - len(given)
    even = [(model.num_layers - sum(given)) // others] * others if others else []
    return [*([] if first is None else [first]), *even, *([] if last is None else [last])]
