"""The output head at chosen positions alone, and the sizes that sequence parallelism asks for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor, nn
from torch.nn.functional import pad


def sequence_parts(gpt: GPTModel) -> int:
    """Over how many ranks sequences are split between attention and MLPs, in parts of equal size."""
    size: int = gpt.config.tensor_model_parallel_size
    return size if gpt.config.sequence_parallel else 1


def filled_up(numbers: Tensor, parts: int, value: int = 0) -> Tensor:
    """With as many of ``value`` at the end of the last axis as equal parts need."""
    return pad(numbers, (0, -numbers.shape[-1] % parts), value=value)


def head_at(gpt: GPTModel, rows: Tensor, places: Tensor) -> AbstractContextManager[Any]:
    """While it is entered, the output head is computed at these positions ``[n]`` alone, as ``[1, n, V]``.

    A hook between the last layer and the head, where this rank has it: whatever the family does after that
    stays as it is. ``n`` is a multiple of :func:`sequence_parts`.
    """
    parts = sequence_parts(gpt)

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_states, *others = inputs  # [s, b, h], under sequence parallelism this rank's part of s
        if parts == 1:
            return hidden_states[places, rows][:, None], *others  # [n, 1, h]
        whole = gather_from_sequence_parallel_region(hidden_states, tensor_parallel_output_grad=False)
        chosen = whole[places, rows][:, None].chunk(parts)
        return chosen[gpt.pg_collection.tp.rank()], *others  # The head gathers them.

    if not gpt.post_process:
        return nullcontext()
    handle: AbstractContextManager[Any] = gpt.output_layer.register_forward_pre_hook(select)
    return handle
