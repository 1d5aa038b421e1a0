"""Cases of core attention that pool workers run on their part of a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recipes.config.schema import ParallelConfig
from recipes.config.world import launched_world
from recipes.families.model_config import ModelConfig
from tests.support.engine import process_groups


def _core_attention(model: ModelConfig, parallel: ParallelConfig) -> Any:
    from megatron.core.transformer.enums import AttnMaskType

    from recipes.model.attention import SDPACoreAttention
    from recipes.model.build import transformer_config

    config = transformer_config(model, parallel, torch.float64)
    return SDPACoreAttention(config, 1, AttnMaskType.causal, "self")


def attention_parts(
    model: ModelConfig,
    parallel: ParallelConfig,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    gradient: np.ndarray,
) -> dict[str, Any]:
    """Core attention of this rank's positions and heads, forward and backward.

    Args:
        query: the whole ``[s, b, heads, d]``, as are the key, the value and the gradient of the output.

    Returns:
        ``positions`` ``[s / cp]`` in the rank's order, ``output`` and ``gradients`` of its part, each
        ``[s / cp, b, heads / tp, d]``, and its ``tensor_rank``.
    """
    from megatron.core import parallel_state
    from megatron.core.utils import get_batch_on_this_cp_rank

    with process_groups(parallel, launched_world()):
        positions = get_batch_on_this_cp_rank({"positions": torch.arange(len(query))[None]})["positions"][0]
        rank = parallel_state.get_tensor_model_parallel_rank()
        ranks = parallel.tensor_model_parallel_size

        def part(array: np.ndarray) -> torch.Tensor:
            own = torch.from_numpy(array)[positions].chunk(ranks, dim=2)[rank]
            return own.clone().to("cuda").requires_grad_()

        inputs = [part(array) for array in (query, key, value)]
        out = _core_attention(model, parallel)(*inputs, None).unflatten(2, (-1, query.shape[3]))
        out.backward(part(gradient).detach())
        return {
            "positions": positions.numpy(),
            "tensor_rank": rank,
            "output": out.detach().cpu().numpy(),
            "gradients": [tensor.grad.cpu().numpy() for tensor in inputs],
        }


def dropped_positions(model: ModelConfig, parallel: ParallelConfig, length: int) -> np.ndarray:
    """Which outputs are zero on this rank, when every query sees itself alone: what dropout dropped."""
    with process_groups(parallel, launched_world()):
        shape = (length, 1, model.num_attention_heads, 16)
        ones = torch.ones(shape, dtype=torch.float64, device="cuda")
        return (_core_attention(model, parallel)(ones, ones, ones, None) == 0).cpu().numpy()


def decoding_under_context_parallelism(model: ModelConfig, parallel: ParallelConfig) -> str:
    """What is said of a key longer than the query."""
    with process_groups(parallel, launched_world()):
        query, key = torch.ones(2, 1, 4, 16, device="cuda"), torch.ones(6, 1, 2, 16, device="cuda")
        try:
            _core_attention(model, parallel)(query, key, key, None)
        except ValueError as error:
            return str(error)
        return "nothing"
