"""A stored model has the tensors that its description asks for, no less and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.checkpoint.convert import convert
from recipes.checkpoint.formats.lazy import LazyTensor, Stored, row_major, whole
from recipes.checkpoint.formats.names import names_of
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.fits import check_fits
from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig
from recipes.model.init import sharded_tensors
from tests.support.engine import initialized, process_groups
from tests.support.nemo_files import FIXTURES
from tests.support.source_cases import COMMON, MODELS
from tests.support.stored_forms import empty_model, local_state

WEIGHTS = "model_weights.ckpt"
GPT_3 = {
    "normalization": "layernorm",
    "activation": "gelu",
    "bias": True,
    "position_embedding_type": "learned_absolute",
}
EXPERTS = MODELS["experts"]
DESCRIBED: dict[str, dict[str, Any]] = {
    **MODELS,
    "swiglu_with_biases": {"add_bias_linear": True},
    "layer_norm_alone": {"normalization": "LayerNorm", "activation": "gelu", "qk_layernorm": True},
    "gelu_experts": {**EXPERTS, "activation": "gelu"},
    "gated_shared_expert": {**EXPERTS, "megatron": {"moe_shared_expert_gate": True}},
    "layer_norm_experts": {**EXPERTS, "normalization": "LayerNorm"},
    "nano_hindi": {
        "family": "nano_hindi",
        "activation": "squared_relu",
        "qk_layernorm": True,
    },
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_table_has_what_is_built(name: str) -> None:
    model = ModelConfig(**{**COMMON, **DESCRIBED[name]})
    validate_model(model)
    with process_groups():
        shards = {shard.key: tuple(shard.global_shape) for shard in sharded_tensors(initialized(model))}
    built = {
        tensor: shape[len(place) :] for key, shape in shards.items() for place, tensor in names_of(key, shape)
    }
    assert {spec.name: spec.shape for spec in tensor_table(model)} == built


def stored(directory: Path, state: dict[str, torch.Tensor], **changes: object) -> Path:
    """The fixture with these tensors for its own, and changes of its configuration."""
    model = empty_model(directory, **changes)
    torch.save(state, model / WEIGHTS)
    return model


def damaged(tmp_path: Path, kind: str) -> tuple[Path, str]:
    """A stored model with a tensor missing, or more of them; what must be named."""
    state = local_state(tmp_path / "whole")
    if kind == "missing":
        del state["model.decoder.layers.2.self_attention.linear_proj.weight"]
        name = "decoder.layers.2.self_attention.linear_proj.weight"
    else:
        for layer in range(4):
            state[f"model.decoder.layers.{layer}.self_attention.q_layernorm.weight"] = torch.ones(16)
        name = "decoder.layers.0.self_attention.q_layernorm.weight"
    return stored(tmp_path / "model", state), name


@pytest.mark.parametrize("kind", ["missing", "more"])
def test_another_set_of_tensors_is_not_converted(kind: str, tmp_path: Path) -> None:
    model, name = damaged(tmp_path, kind)
    before = sorted(tmp_path.iterdir())
    for to in ("nemo", "nemo2", "torch_dist", "hf"):
        with pytest.raises(UserError) as caught:
            convert(model, tmp_path / "out", to)
        assert f"{name} is {'missing' if kind == 'missing' else 'left over'}" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["missing", "more"])
def test_inspect_says_so(kind: str, tmp_path: Path) -> None:
    from tools.inspect import describe

    model, name = damaged(tmp_path, kind)
    with open_stored_model(model) as source:
        described, problems = describe(source)
    assert described["model"] is None and len(problems) == 1 and name in problems[0]


def test_gpt_3s_kind_converts(tmp_path: Path) -> None:
    """LayerNorm, GELU, biases and learned positions, which no class in transformers computes."""
    description = ModelConfig(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=192,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=448,
        make_vocab_size_divisible_by=512,
        max_position_embeddings=64,
        normalization="LayerNorm",
        activation="gelu",
        add_bias_linear=True,
        position_embedding_type="learned_absolute",
    )
    state = {spec.name: torch.randn(spec.shape) for spec in tensor_table(description)}
    model = stored(tmp_path / "gpt", {f"model.{name}": tensor for name, tensor in state.items()}, **GPT_3)
    path = model
    for to in ("nemo", "torch_dist"):
        convert(path, tmp_path / to, to)
        path = tmp_path / to
    with open_stored_model(path) as source:
        read = replace(source.model, vocab_size=448, make_vocab_size_divisible_by=512)
        for setting in ("normalization", "activation", "add_bias_linear", "position_embedding_type"):
            assert getattr(read, setting) == getattr(description, setting)
        assert source.tensors.keys() == state.keys()
        assert all(torch.equal(source.tensors[name].load(), tensor) for name, tensor in state.items())
    with pytest.raises(UserError, match=r"^--to nemo2: model\.normalization=LayerNorm: .* has RMSNorm"):
        convert(model, tmp_path / "nemo2", "nemo2")
    assert not (tmp_path / "nemo2").exists()


def zeros(name: str, *shape: int) -> LazyTensor:
    """A tensor that takes no bytes, however large."""
    return whole(name, Stored(None, torch.float32, shape, row_major(shape)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_query_groups": 2**40, "num_attention_heads": 2**40, "kv_channels": 2}, "num_query_groups"),
        ({"num_moe_experts": 2**40}, "num_moe_experts"),
        ({"num_layers": 3000}, "num_layers"),
    ],
)
def test_nothing_is_made_for_sizes_that_only_the_description_has(changes: dict[str, Any], named: str) -> None:
    """Each would otherwise be a list of as many entries."""
    model = ModelConfig(**{**COMMON, "num_layers": 1, **changes})
    tensors = {"embedding.word_embeddings.weight": zeros("embedding.word_embeddings.weight", 512, 64)}
    for layer in range(model.num_layers):
        tensors[f"decoder.layers.{layer}.x"] = zeros(f"decoder.layers.{layer}.x", 1)
    with pytest.raises(UserError, match=named):
        check_fits(model, tensors)


def test_every_fixture_is_complete() -> None:
    for path in sorted(FIXTURES.glob("*/model.nemo")) + sorted(FIXTURES.glob("*/ckpt")):
        with open_stored_model(path) as source:
            check_fits(source.model, source.tensors)
