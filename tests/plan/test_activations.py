"""What the forward pass keeps, against the tensors that autograd really saves on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.transformer.moe import moe_utils

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig
from recipes.plan.activations import LayerActivations, layer_activations, stage_numbers
from tests.support.engine import initialized

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="counts what the CPU's kernels keep"),
]

SEQ_LENGTH, SAMPLES = 256, 2
MINIMAL = ["name=x", "data.seq_length=32", "trainer.max_steps=1"]


def described(*overrides: str) -> ModelConfig:
    model: ModelConfig = compose("pretrain", [*MINIMAL, *overrides]).model
    return model


def kept_numbers(model: ModelConfig) -> float:
    """fp32 numbers per token that one forward pass saves, weights left out."""
    moe_utils.get_moe_layer_wise_logging_tracker().clear()  # It is as long as the last model.
    gpt = initialized(model).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in gpt.parameters()}
    sizes: dict[int, int] = {}
    alive = []  # A storage that were freed could lend its address to the next.

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    tokens = torch.randint(0, model.vocab_size, (SAMPLES, SEQ_LENGTH))
    positions = torch.arange(SEQ_LENGTH).expand(SAMPLES, -1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gpt(tokens, positions, None, labels=tokens)
    return sum(sizes.values()) / 4 / tokens.numel()


# A head's rotation tables, per position and not per token, weigh in these narrow models; nano_hindi's mixing
# with the embedding is left out.
@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (["model=tiny"], 0.03),
        (["model=tiny", "model.num_query_groups=null"], 0.03),
        (["model=tiny", "model.activation=gelu"], 0.04),
        (["model=tiny", "model.attention_dropout=0.1", "model.hidden_dropout=0.1"], 0.03),
        (["model=tiny_param_moe"], 0.03),
        (["model=tiny_param2_moe"], 0.09),
        (["model=tiny_gemma3"], 0.09),
        (["model=tiny_nano_hindi"], 0.15),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_layers_keep_what_is_planned(overrides: list[str], tolerance: float) -> None:
    """The difference between a deeper and a shallower model: whole patterns of windows and experts."""
    depths = (6, 12) if "model=tiny_gemma3" in overrides else (4, 8)
    shallow, deep = (described(*overrides, f"model.num_layers={depth}") for depth in depths)
    kept = kept_numbers(deep) - kept_numbers(shallow)
    layers = layer_activations(deep, ParallelConfig(), SEQ_LENGTH, on_cuda=False)
    planned = sum(layer.total for layer in layers[depths[0] :])
    assert planned == pytest.approx(kept, rel=tolerance)


def test_korthikanti() -> None:
    """The paper's layer keeps 34 s b h bytes: a GELU of width 4h, dropout, as many keys as queries.

    Section 4.1: 11h of attention, without 5as of its matrix, 19h of the MLP, 4h of the two norms.
    """
    model = replace(
        described("model=tiny", "model.activation=gelu", "model.num_query_groups=null"),
        ffn_hidden_size=4 * 128,
        hidden_dropout=0.1,
        position_embedding_type="learned_absolute",
    )
    (layer, *_) = layer_activations(model, ParallelConfig(), SEQ_LENGTH, on_cuda=True)
    assert 2 * layer.total == 34 * model.hidden_size


def numbers(**settings: Any) -> tuple[float, float]:
    layer = LayerActivations(
        stream=2, norms=2, attention=8, attention_matrix=0, mlp=16, routed=0, routed_activation=0, shared=0
    )
    return stage_numbers([layer] * 8, ParallelConfig(**settings), hidden_size=1)


def test_recomputation() -> None:
    """A layer of 28 numbers per token, 8 of them."""
    full: dict[str, Any] = {"recompute_granularity": "full", "recompute_method": "uniform"}
    assert numbers() == (8 * 28, 28)
    assert numbers(**full, recompute_num_layers=1) == (8, 2 * 28)
    assert numbers(**full, recompute_num_layers=3) == (3, 3 * 28 + 28)
    block = full | {"recompute_method": "block"}
    assert numbers(**block, recompute_num_layers=6) == (6 + 2 * 28, 2 * 28)
    selective = numbers(recompute_granularity="selective", recompute_modules=["mlp", "layernorm"])
    assert selective == (8 * 10, 18 + 28)
    halved = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True)
    model = described("model=tiny")
    unsplit = replace(halved, sequence_parallel=False)
    whole, half, other = (
        layer_activations(model, parallel, SEQ_LENGTH, on_cuda=True)[0]
        for parallel in (ParallelConfig(), halved, unsplit)
    )
    assert half.total == whole.total / 2
    assert (other.stream, other.attention) == (whole.stream, half.attention)
