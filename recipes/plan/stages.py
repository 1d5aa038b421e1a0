"""What of a model's tensors a rank holds: those of its pipeline stage, and its part of each."""

from __future__ import annotations

from recipes.config.schema import ParallelConfig
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig
from recipes.families.tensors import POSITIONS, WORD_EMBEDDINGS, TensorSpec


def stage_tables(model: ModelConfig, sizes: list[int]) -> list[list[TensorSpec]]:
    """The tensors of each pipeline stage; a tied head is a copy of the embedding on the last one.

    Args:
        model: the described model.
        sizes: layers of each stage.
    """
    stage_of = [stage for stage, count in enumerate(sizes) for _ in range(count)]
    tables: list[list[TensorSpec]] = [[] for _ in sizes]
    for spec in tensor_table(model):
        if spec.layer is not None:
            tables[stage_of[spec.layer]].append(spec)
            continue
        first = spec.name == WORD_EMBEDDINGS or spec.part == POSITIONS
        tables[0 if first else -1].append(spec)
    if len(sizes) > 1:
        tables[-1] += [spec for spec in tables[0] if is_tied_table(spec)]
    return tables


def is_tied_table(spec: TensorSpec) -> bool:
    """Whether it is the table of words and the output head in one."""
    return spec.name == WORD_EMBEDDINGS and spec.multiplied


def state_numbers(spec: TensorSpec, parallel: ParallelConfig, data_parallel_size: int) -> tuple[float, float]:
    """Numbers of a tensor whose weights a rank of its stage holds, and of those whose optimizer state.

    Context-parallel ranks hold the same weights and share the state too; experts have other replicas.
    """
    tp, ep = parallel.tensor_model_parallel_size, parallel.expert_model_parallel_size
    shards = data_parallel_size * parallel.context_parallel_size
    if spec.routed:
        expert_tp = parallel.expert_tensor_parallel_size or tp
        held = spec.stored_numbers() / ((expert_tp if spec.split else 1) * ep)
        return held, held / (shards * tp / (ep * expert_tp))
    held = spec.stored_numbers() / (tp if spec.split else 1)
    return held, held / shards
