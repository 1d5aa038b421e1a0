"""Every parameter of every shipped model has a kind, and the right one."""

from __future__ import annotations

import pytest

from recipes.config.hydra_app import compose
from recipes.families.family import known_families, tensor_table
from recipes.families.model_config import ModelConfig
from recipes.families.tensors import HEAD, TensorSpec
from recipes.optim.kinds import parameter_kind
from tests.support.configs import options


def shipped(name: str) -> ModelConfig:
    return compose("pretrain", ["name=x", "data.seq_length=8", "trainer.max_steps=1", f"model={name}"]).model


def kind_of(spec: TensorSpec) -> str:
    """By what a family says of its tensor, not by its name."""
    if len(spec.shape) < 2:
        return "vector"
    if spec.part == HEAD:
        return "head"
    return "embedding" if spec.table else "matrix"


@pytest.mark.parametrize("name", options("model"))
def test_shipped_model(name: str) -> None:
    """What the built modules call them is compared in tests/model/test_shipped_models.py."""
    parameters = [spec for spec in tensor_table(shipped(name)) if spec.trained]
    kinds = {spec.name: parameter_kind(f"module.{spec.name}", spec.shape) for spec in parameters}
    assert kinds == {spec.name: kind_of(spec) for spec in parameters}
    assert {"embedding", "matrix", "vector"} <= set(kinds.values())


def test_every_family_is_shipped() -> None:
    assert {shipped(name).family for name in options("model")} == set(known_families())


# Names that only some layouts or settings bring.
KINDS = [
    ("module.embedding.position_embeddings.weight", (64, 64), "embedding"),
    ("decoder.layers.3.self_attention.value_embedding.weight", (256, 32), "embedding"),
    ("decoder.layers.0.mlp.experts.weight1", (8, 64, 32), "matrix"),
    ("decoder.layers.0.mlp.linear_fc1.bias", (128,), "vector"),
    ("decoder.layers.0.resid_lambda", (), "vector"),
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
