"""Which rows of megatron-core's parameters are which matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.optim.matrices import MatrixLayout, matrix_layout
from tests.support.engine import TINY, initialized, process_groups

EXPERTS = {"num_moe_experts": 4, "moe_ffn_hidden_size": 24, "moe_shared_expert_intermediate_size": 40}


def shapes(model: ModelConfig) -> dict[str, list[tuple[int, int]]]:
    with process_groups():
        gpt = initialized(model)
        return {
            name.removeprefix("decoder.layers.0."): matrix_layout(name, p, gpt.config).global_shapes(p.shape)
            for name, p in gpt.named_parameters()
            if name.startswith("decoder.layers.0.") and p.dim() == 2
        }


def test_a_dense_layer() -> None:
    # 4 heads of 16 in 2 groups: 64 rows of queries, 32 of keys, 32 of values.
    assert shapes(TINY) == {
        "self_attention.linear_qkv.weight": [(64, 64), (32, 64), (32, 64)],
        "self_attention.linear_proj.weight": [(64, 64)],
        "mlp.linear_fc1.weight": [(96, 64), (96, 64)],
        "mlp.linear_fc2.weight": [(64, 96)],
    }


def test_a_layer_without_gate() -> None:
    found = shapes(ModelConfig(**{**vars(TINY), "activation": "gelu"}))
    assert found["mlp.linear_fc1.weight"] == [(96, 64)]


def test_a_layer_of_experts() -> None:
    found = shapes(ModelConfig(**{**vars(TINY), **EXPERTS}))
    for expert in range(4):
        prefix = f"mlp.experts.local_experts.{expert}."
        assert found[f"{prefix}linear_fc1.weight"] == [(24, 64), (24, 64)]
        assert found[f"{prefix}linear_fc2.weight"] == [(64, 24)]
    assert found["mlp.shared_experts.linear_fc1.weight"] == [(40, 64), (40, 64)]
    assert found["mlp.router.weight"] == [(4, 64)]


def test_parts_are_views_of_interleaved_rows() -> None:
    rows = torch.arange(12.0).unsqueeze(1).repeat(1, 3)
    queries, keys, values = MatrixLayout((4, 1, 1)).parts(rows)
    assert queries[..., 0].flatten().tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert keys[..., 0].flatten().tolist() == [4, 10]
    assert values[..., 0].flatten().tolist() == [5, 11]
    values.fill_(-1)
    assert rows[5].tolist() == rows[11].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp.experts.weight1", (64, 96)), ("mlp.experts.linear_fc1.weight", (4, 64, 32))]
)
def test_stacked_experts_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with process_groups():
        gpt = initialized(TINY)
        with pytest.raises(UserError, match="stacks the matrices of several experts"):
            matrix_layout(f"decoder.layers.0.{name}", nn.Parameter(torch.ones(shape)), gpt.config)
