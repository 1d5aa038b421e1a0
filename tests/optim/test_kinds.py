"""Every parameter of every shipped model has a kind, and the right one."""

from __future__ import annotations

import pytest

from recipes.optim.kinds import parameter_kind

KINDS = [
    ("embedding.word_embeddings.weight", (256, 64), "embedding"),
    ("module.embedding.position_embeddings.weight", (64, 64), "embedding"),
    ("decoder.layers.3.self_attention.value_embedding.weight", (256, 32), "embedding"),
    ("output_layer.weight", (256, 64), "head"),
    ("module.decoder.layers.0.self_attention.linear_qkv.weight", (128, 64), "matrix"),
    ("decoder.layers.0.self_attention.value_gate.weight", (2, 32), "matrix"),
    ("decoder.layers.0.mlp.experts.local_experts.3.linear_fc1.weight", (64, 64), "matrix"),
    ("decoder.layers.0.mlp.router.weight", (8, 64), "matrix"),
    ("decoder.layers.0.mlp.experts.weight1", (8, 64, 32), "matrix"),
    ("decoder.layers.0.mlp.linear_fc1.bias", (128,), "vector"),
    ("decoder.layers.0.self_attention.linear_qkv.layer_norm_weight", (64,), "vector"),
    ("decoder.layers.0.resid_lambda", (), "vector"),
    ("decoder.final_layernorm.weight", (64,), "vector"),
    ("output_layer.bias", (256,), "vector"),
]


@pytest.mark.parametrize(("name", "shape", "kind"), KINDS)
def test_kind(name: str, shape: tuple[int, ...], kind: str) -> None:
    assert parameter_kind(name, shape) == kind


def test_a_tied_head_is_an_embedding() -> None:
    assert parameter_kind("output_layer.weight", (256, 64), tied=True) == "embedding"


def test_unknown_parameters_are_errors() -> None:
    with pytest.raises(ValueError, match=r"mtp\.layers\.0\.eh_proj\.weight"):
        parameter_kind("mtp.layers.0.eh_proj.weight", (64, 128))
