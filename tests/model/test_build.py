"""megatron-core's configuration where Transformer Engine is, and what is refused where it is not."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import TEGroupedMLP

from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.model.backend import have_transformer_engine
from recipes.model.build import build_gpt_model, transformer_config
from tests.support.engine import TINY

pytestmark = pytest.mark.usefixtures("engine")

needs_no_transformer_engine = pytest.mark.skipif(have_transformer_engine(), reason="it is there")
# Its rotary kernel cannot be imported here, and TransformerConfig looks for it.
UNFUSED_ROPE = {"apply_rope_fusion": False}


@pytest.fixture
def with_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.model.build.have_transformer_engine", lambda: True)


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def described(name: str, **megatron: Any) -> ModelConfig:
    model = compose(
        "pretrain", ["name=x", "data.seq_length=32", "trainer.max_steps=1", f"model={name}"]
    ).model
    return replace(model, megatron={**UNFUSED_ROPE, **megatron})


@pytest.mark.parametrize(("name", "fused"), [("tiny_param_moe", False), ("tiny_param2_moe", True)])
def test_experts_of_transformer_engine_can_be_built(
    name: str, fused: bool, with_transformer_engine: None, on_cuda: None
) -> None:
    """TEGroupedMLP, megatron-core's own but for its matrices, refuses biases with the fused addition."""
    config = transformer_config(described(name), ParallelConfig(), torch.bfloat16)
    assert config.moe_grouped_gemm and config.bias_dropout_fusion == fused
    matrices = MLPSubmodules(linear_fc1=torch.nn.Identity, linear_fc2=torch.nn.Identity)
    TEGroupedMLP(4, config, matrices, ProcessGroupCollection.use_mpu_process_groups())


def test_the_fused_addition_stays_elsewhere(on_cuda: None) -> None:
    """Dense models have it with biases too, and so have experts one by one."""
    for model in (replace(TINY, add_bias_linear=True), described("tiny_param_moe")):
        assert transformer_config(model, ParallelConfig(), torch.float32).bias_dropout_fusion


def test_asking_for_the_fused_addition_is_refused(with_transformer_engine: None) -> None:
    model = described("tiny_param_moe", bias_dropout_fusion=True)
    with pytest.raises(UserError, match=r"bias_dropout_fusion=True: .*no such fusion; remove it"):
        transformer_config(model, ParallelConfig(), torch.float32)


@pytest.mark.parametrize("name", ["tiny_gemma3", "tiny_nano_hindi"])
def test_windows_under_context_parallelism_are_gathered(name: str) -> None:
    """Transformer Engine's default, the ring, has none."""
    split = ParallelConfig(context_parallel_size=2)
    assert transformer_config(described(name), split, torch.bfloat16).cp_comm_type == "all_gather"
    chosen = described(name, cp_comm_type="a2a")
    assert transformer_config(chosen, split, torch.bfloat16).cp_comm_type == "a2a"
    assert transformer_config(described(name), ParallelConfig(), torch.bfloat16).cp_comm_type is None
    assert transformer_config(TINY, split, torch.bfloat16).cp_comm_type is None


def test_context_parallelism_in_float32_is_refused(with_transformer_engine: None) -> None:
    """Its flash and fused kernels are in half precision, and the plain one has no context parallelism."""
    split, model = ParallelConfig(context_parallel_size=2), replace(TINY, megatron=UNFUSED_ROPE)
    with pytest.raises(UserError, match=r"trainer\.precision=fp32: .*set trainer\.precision=bf16"):
        transformer_config(model, split, torch.float32)
    transformer_config(model, split, torch.bfloat16)


@needs_no_transformer_engine
@pytest.mark.parametrize(
    ("field", "value"), [("fp8", "hybrid"), ("fp4", "e2m1"), ("attention_backend", "flash")]
)
def test_what_only_transformer_engine_does_is_refused_without_it(field: str, value: str) -> None:
    model = replace(TINY, megatron={field: value})
    with pytest.raises(UserError, match=rf"model\.megatron\.{field}={value}: needs Transformer Engine"):
        transformer_config(model, ParallelConfig(), torch.float32)
    harmless = {"fp8": None, "fp4": None, "attention_backend": "auto"}
    transformer_config(replace(TINY, megatron=harmless), ParallelConfig(), torch.float32)


@needs_no_transformer_engine
def test_recomputed_activations_of_experts_are_refused_without_it() -> None:
    parallel = ParallelConfig(recompute_granularity="selective", recompute_modules=["moe_act"])
    with pytest.raises(UserError, match="recompute_modules=moe_act: needs Transformer Engine; remove it"):
        transformer_config(described("tiny_param2_moe"), parallel, torch.float32)


def test_recomputed_activations_of_experts(with_transformer_engine: None) -> None:
    parallel = ParallelConfig(recompute_granularity="selective", recompute_modules=["moe_act"])
    config = transformer_config(described("tiny_param2_moe"), parallel, torch.float32)
    assert config.recompute_modules == ["moe_act"]


def test_the_attention_backend_takes_effect(
    with_transformer_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """megatron-core tells Transformer Engine by environment variables."""
    names = ("NVTE_FLASH_ATTN", "NVTE_FUSED_ATTN", "NVTE_UNFUSED_ATTN")
    for name in names:
        monkeypatch.setenv(name, "")  # So that it is as it was afterwards.
        monkeypatch.delenv(name)
    model = replace(TINY, megatron={**UNFUSED_ROPE, "attention_backend": "flash"})
    gpt = build_gpt_model(model, ParallelConfig(), torch.float32)
    assert gpt.config.attention_backend is AttnBackend.flash
    assert [os.environ[name] for name in names] == ["1", "0", "0"]


def test_unknown_scopes_of_cuda_graphs_are_refused() -> None:
    model = replace(TINY, megatron={"cuda_graph_scope": "everything"})
    with pytest.raises(UserError, match="megatron-core refuses it: 'everything'"):
        transformer_config(model, ParallelConfig(), torch.float32)


def test_learned_positions_have_the_models_type() -> None:
    """In fp32 they would turn every layer's input into fp32, which a norm in bf16 refuses."""
    model = replace(TINY, position_embedding_type="learned_absolute", normalization="LayerNorm")
    gpt = build_gpt_model(model, ParallelConfig(), torch.bfloat16)
    assert {parameter.dtype for parameter in gpt.parameters()} == {torch.bfloat16}


def test_our_own_mlp_is_no_unknown_one(caplog: pytest.LogCaptureFixture) -> None:
    build_gpt_model(TINY, ParallelConfig(), torch.float32)
    assert "Unknown MLP type" not in caplog.text
