"""Over how many processes a model is split for completion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.checks import of_a_machine
from recipes.config.schema import GenerateConfig, ParallelConfig
from recipes.config.world import World, launched_world
from recipes.console import shown
from recipes.counts import counted
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig, expert_width

AS_STORED = -1
"""NeMo's word for "as the file says"."""
KEYS = ("tensor_model_parallel_size", "pipeline_model_parallel_size")


def layout_of(config: GenerateConfig) -> ParallelConfig:
    """What the settings ask for. Only -1 has the model's file opened.

    Raises:
        UserError: the file cannot be read.
    """
    asked = {key: getattr(config, key) for key in KEYS}
    if AS_STORED in asked.values():
        from recipes.checkpoint.open import open_stored_model

        with open_stored_model(Path(config.gpt_model_file), verify=False) as source:
            stored = {key: _stored_size(source.config, key) for key in KEYS}
        asked = {key: stored[key] if size == AS_STORED else size for key, size in asked.items()}
    return ParallelConfig(**asked)


def processes_of(parallel: ParallelConfig) -> int:
    """How many processes hold the model together.

    Raises:
        UserError: more than any machine has devices for.
    """
    needed = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    of_a_machine(" x ".join(KEYS), needed)
    return needed


def world_of(parallel: ParallelConfig) -> World:
    """The processes that hold the model.

    Raises:
        UserError: other processes were launched than the layout needs.
    """
    needed, launched = processes_of(parallel), launched_world()
    if needed != launched.size:
        sizes = ", ".join(f"{key}={getattr(parallel, key)}" for key in KEYS)
        raise UserError(
            f"{sizes}: {counted(needed, 'process is', 'processes are')} needed, {launched.size:,} launched"
        )
    return launched


def with_experts_dealt(parallel: ParallelConfig, model: ModelConfig) -> ParallelConfig:
    """The layout of a model with experts, dealt to the ranks that have parts of its other matrices.

    Each rank gets some of them, whole, where their number allows it: parts of all of them would be more
    and smaller products for the same bytes, and those with biases cannot be split. megatron-core wants
    sequence parallelism with either.

    Raises:
        UserError: neither is possible.
    """
    size, experts = parallel.tensor_model_parallel_size, model.num_moe_experts
    if experts is None or size < 2:
        return parallel
    parallel = replace(parallel, sequence_parallel=True)
    if experts % size == 0:
        return replace(parallel, expert_model_parallel_size=size, expert_tensor_parallel_size=1)
    if model.add_bias_linear or expert_width(model) % size:
        raise UserError(
            f"tensor_model_parallel_size={size}: {experts} experts cannot be dealt to so many processes, "
            "nor can each be cut; choose a divisor of their number"
        )
    return parallel


def _stored_size(content: dict[str, Any], key: str) -> int:
    """From the classic configuration, or the section of NeMo 2's; 1 where a file names none."""
    section = content.get("config")
    size = content.get(key, section.get(key) if isinstance(section, dict) else None)
    if size is None:
        return 1
    if type(size) is not int or size < 1:
        raise UserError(f"{key}=-1: the file says {shown(size)}; give the number")
    return size
