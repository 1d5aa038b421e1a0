"""megatron-core in a test's own process, and the cases that pool workers run on parts of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler

from recipes.config.schema import ParallelConfig
from recipes.config.world import World, launched_world
from recipes.families.model_config import ModelConfig
from recipes.model.build import build_gpt_model
from recipes.model.init import initialize_weights
from recipes.parallel.setup import init_model_parallel, init_process_group

TINY = ModelConfig(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    vocab_size=250,
    max_position_embeddings=64,
)


@contextmanager
def process_groups(parallel: ParallelConfig = ParallelConfig(), world: World | None = None) -> Iterator[None]:  # noqa: B008
    """Process groups for the layout, one process unless told otherwise."""
    # A model that another test loaded in this process has left its groups standing.
    parallel_state.destroy_model_parallel()
    # megatron-core keeps the shape of the first scale for the process; without its schedules it has another.
    MoEAuxLossAutoScaler.main_loss_backward_scale = None
    init_process_group(world or World())
    init_model_parallel(parallel, seed=1)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def initialized(
    model: ModelConfig,
    seed: int = 1,
    parallel: ParallelConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> GPTModel:
    """This rank's part of the model with its initial weights, on the device."""
    gpt = build_gpt_model(model, parallel or ParallelConfig(), dtype)
    initialize_weights(gpt, model, seed)
    return gpt.to("cuda")


# Cases for the pool.


def initial_parameters(model: ModelConfig, parallel: ParallelConfig, seed: int) -> dict[str, Any]:
    """This rank's initial parameters as arrays, layers numbered over all pipeline stages."""
    with process_groups(parallel, launched_world()):
        gpt = initialized(model, seed, parallel)
        first = gpt.decoder.layers[0].layer_number - 1
        renamed = {}
        for name, parameter in gpt.named_parameters():
            parts = name.split(".")
            if parts[:2] == ["decoder", "layers"]:
                parts[2] = str(int(parts[2]) + first)
            renamed[".".join(parts)] = parameter.detach().cpu().numpy().copy()
        return renamed


def attention_dropout_output(parallel: ParallelConfig) -> Any:
    """Core attention with dropout over the same input on every rank."""
    from megatron.core.transformer.enums import AttnMaskType

    from recipes.model.attention import SDPACoreAttention
    from recipes.model.build import transformer_config

    model = ModelConfig(**{**vars(TINY), "attention_dropout": 0.5})
    with process_groups(parallel, launched_world()):
        attention = SDPACoreAttention(
            transformer_config(model, parallel, torch.float32), 1, AttnMaskType.causal, "self"
        )
        values = torch.ones(16, 1, 2, 16, device="cuda")
        keys = torch.ones(16, 1, 1, 16, device="cuda")
        out = attention(values, keys, keys, None)
        after = torch.rand(4, device="cuda")  # The shared random state must not be touched.
        return out.cpu().numpy(), after.cpu().numpy()
