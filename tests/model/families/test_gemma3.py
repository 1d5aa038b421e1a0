"""The gemma3 family computes what transformers' Gemma3ForCausalLM computes, trained or decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from recipes.config.schema import ParallelConfig
from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.family import layer_windows
from recipes.families.model_config import ModelConfig
from recipes.model.build import build_gpt_model, transformer_config
from recipes.model.init import initialize_weights, sharded_tensors
from recipes.plan.accounting import count_parameters
from tests.support import parity
from tests.support.engine import initialized
from tests.support.parity import (
    VOCABULARY,
    assert_cached_greedy_is_the_full_forward,
    assert_logits_losses_and_gradients_agree,
    assert_recomputation_changes_no_gradient,
    batch,
    gated_mlp,
    give_weights,
    gradients,
    projections,
    tables_and_norm,
    weights,
)

pytestmark = pytest.mark.usefixtures("engine")

GEMMA = ModelConfig(
    family="gemma3",
    num_layers=5,
    hidden_size=48,  # sqrt(48) is no bfloat16 number, and 4 heads of 16 are wider than 48.
    ffn_hidden_size=96,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=16,
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    layernorm_epsilon=1e-3,
    activation="geglu",
    qk_layernorm=True,
    rotary_base=5000,
    rotary_base_local=50,
    window_size=7,
    window_pattern="SSL",
    init_method_std=0.1,
    share_embeddings_and_output_weights=True,
)


def shaken(gpt: GPTModel) -> GPTModel:
    """Gains are stored as offsets from 1."""
    return parity.shaken(gpt, low=-0.5)


def gemma_names(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Weights (or their gradients) of GPTModel under transformers' names. Written for this test alone."""
    out = tables_and_norm(tensors, model)
    renamed = {
        "input_layernorm": "input_layernorm",
        "self_attention.linear_proj": "self_attn.o_proj",
        "self_attention.linear_proj.post_layernorm": "post_attention_layernorm",
        "self_attention.q_layernorm": "self_attn.q_norm",
        "self_attention.k_layernorm": "self_attn.k_norm",
        "pre_mlp_layernorm": "pre_feedforward_layernorm",
        "mlp.linear_fc2": "mlp.down_proj",
        "mlp.linear_fc2.post_layernorm": "post_feedforward_layernorm",
    }
    for i in range(model.num_layers):
        ours, theirs = f"decoder.layers.{i}.", f"model.layers.{i}."
        for name, new in renamed.items():
            out[f"{theirs}{new}.weight"] = tensors[f"{ours}{name}.weight"]
        out |= gated_mlp(tensors, ours + "mlp.", theirs + "mlp.")
        out |= projections(tensors, model, ours, theirs)
    return out


def transformers_gemma(gpt: GPTModel, model: ModelConfig, dtype: torch.dtype) -> Gemma3ForCausalLM:
    """transformers' model with the same weights."""
    tied = model.share_embeddings_and_output_weights
    windows = layer_windows(model)
    local = model.rotary_base_local or model.rotary_base
    gemma = Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_query_groups,
            head_dim=model.kv_channels,
            query_pre_attn_scalar=model.kv_channels,
            max_position_embeddings=model.max_position_embeddings,
            rms_norm_eps=model.layernorm_epsilon,
            sliding_window=model.window_size or 1,  # It wants a number even if no layer is windowed.
            layer_types=["full_attention" if w is None else "sliding_attention" for w in windows],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": float(model.rotary_base)},
                "sliding_attention": {"rope_type": "default", "rope_theta": float(local)},
            },
            tie_word_embeddings=tied,
            pad_token_id=None,
            attn_implementation="eager",
        )
    ).to(device="cuda", dtype=dtype)
    give_weights(gemma, gemma_names(weights(gpt), model), without=["lm_head.weight"] if tied else [])
    return gemma.eval()


FULL_ATTENTION = {"window_size": None, "window_pattern": None, "rotary_base_local": None}
VARIANTS = {
    "tied": {},
    "untied": {"share_embeddings_and_output_weights": False},
    "mqa": {"num_query_groups": 1},
    "mha": {"num_query_groups": 4, "window_pattern": "LS"},
    "full_attention": FULL_ATTENTION,
    "one_base": {"rotary_base_local": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_losses_and_gradients(variant: str) -> None:
    model = replace(GEMMA, **VARIANTS[variant])
    gpt = shaken(initialized(model))
    gemma = transformers_gemma(gpt, model, torch.float32)
    assert_logits_losses_and_gradients_agree(
        gpt,
        lambda tokens: gemma(tokens).logits,
        lambda tensors: gemma_names(tensors, model),
        lambda: gradients(gemma),
    )


def test_window_and_local_base_reach_their_layers() -> None:
    """Guards the comparison above: each of these settings changes the logits by far more than 1e-5."""
    tokens, _, positions = batch()
    logits = shaken(initialized(GEMMA))(tokens, positions, None)
    changes = (
        {"window_size": 8},
        {"rotary_base_local": 60},
        {"rotary_base": 6000},
        {"window_pattern": "SLS"},
    )
    for change in changes:
        others = shaken(initialized(replace(GEMMA, **change)))(tokens, positions, None)
        assert (others - logits).abs().max() > 1e-3, change


def test_bfloat16_rounds_as_transformers_does() -> None:
    """The scaled embedding and the norms are equal in every bit; attention sums in another order."""
    gpt = build_gpt_model(GEMMA, ParallelConfig(), torch.bfloat16)
    initialize_weights(gpt, GEMMA, 1)
    gpt = shaken(gpt.to("cuda"))
    gemma = transformers_gemma(gpt, GEMMA, torch.bfloat16)
    tokens, _, positions = batch()
    embedded = gpt._preprocess(tokens, positions)[0].transpose(0, 1)
    assert torch.equal(embedded, gemma.model.embed_tokens(tokens))
    rows = torch.randn(50, 48, generator=torch.Generator().manual_seed(1)).to(embedded)
    assert torch.equal(gpt.decoder.final_layernorm(rows), gemma.model.norm(rows))


@pytest.mark.parametrize("variant", ["tied", "mqa", "full_attention"])
def test_greedy_decoding_with_the_cache_repeats_the_full_forward(variant: str) -> None:
    gpt = shaken(initialized(replace(GEMMA, **VARIANTS[variant]))).eval()
    assert_cached_greedy_is_the_full_forward(gpt)


# Which module of the first layer runs again during the backward pass.
RECOMPUTATIONS = {
    "full": (
        ParallelConfig(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1),
        "self_attention.linear_proj.post_layernorm",
    ),
    "full_blocks": (
        ParallelConfig(recompute_granularity="full", recompute_method="block", recompute_num_layers=2),
        "self_attention.linear_proj.post_layernorm",
    ),
    "mlp": (
        ParallelConfig(recompute_granularity="selective", recompute_modules=["mlp"]),
        "mlp.linear_fc2.post_layernorm",
    ),
    "core_attn": (
        ParallelConfig(recompute_granularity="selective", recompute_modules=["core_attn"]),
        "self_attention.core_attention",
    ),
}


@pytest.mark.parametrize("kind", RECOMPUTATIONS)
def test_recomputation_changes_no_gradient(kind: str) -> None:
    parallel, repeated = RECOMPUTATIONS[kind]
    assert_recomputation_changes_no_gradient(
        lambda parallel: shaken(initialized(GEMMA, parallel=parallel)),
        parallel,
        f"decoder.layers.0.{repeated}",
    )


def test_checkpoint_names() -> None:
    """Transformer Engine's where it fuses a norm into a matrix, NeMo's for the norms after."""
    keys = {shard.key for shard in sharded_tensors(initialized(replace(GEMMA, **VARIANTS["untied"])))}
    layer = "decoder.layers."
    assert keys == {
        "embedding.word_embeddings.weight",
        layer + "self_attention.linear_qkv.layer_norm_weight",
        layer + "self_attention.linear_qkv.weight",
        layer + "self_attention.q_layernorm.weight",
        layer + "self_attention.k_layernorm.weight",
        layer + "self_attention.linear_proj.weight",
        layer + "self_attention.linear_proj.post_layernorm.weight",
        layer + "mlp.linear_fc1.layer_norm_weight",
        layer + "mlp.linear_fc1.weight",
        layer + "mlp.linear_fc2.weight",
        layer + "mlp.linear_fc2.post_layernorm.weight",
        "decoder.final_layernorm.weight",
        "output_layer.weight",
    }


@pytest.mark.parametrize("variant", ["tied", "untied", "mqa"])
def test_parameters_are_those_that_accounting_counts(variant: str) -> None:
    model = replace(GEMMA, **VARIANTS[variant])
    parameters = sum(parameter.numel() for parameter in initialized(model).parameters())
    assert parameters == count_parameters(model).total


def test_initial_values() -> None:
    model = replace(
        GEMMA,
        init_method="kaiming_uniform",
        embedding_init_method_std=1.0,
        share_embeddings_and_output_weights=False,
    )
    fan_in = {"linear_proj": 4 * 16, "linear_fc2": 96}
    norms = 0
    for name, parameter in initialized(model).named_parameters():
        if parameter.dim() == 1:
            assert torch.count_nonzero(parameter) == 0, name
            norms += 1
        elif name == "embedding.word_embeddings.weight":
            assert parameter.std().item() == pytest.approx(1.0, abs=5 / math.sqrt(2 * parameter.numel()))
        else:
            # A uniform distribution over (-bound, bound), bound = 1 / sqrt(fan-in): torch.nn.Linear's own.
            bound = 1 / math.sqrt(fan_in.get(name.split(".")[-2], 48))
            assert 0.99 * bound < parameter.abs().max().item() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert norms == 6 * model.num_layers + 1


def test_flash_decode_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.megatron\.flash_decode=True: .*; remove it$"):
        validate_model(replace(GEMMA, megatron={"flash_decode": True}))


def test_norms_are_zero_centred_in_the_configuration() -> None:
    """Transformer Engine's norms read it from there."""
    assert transformer_config(GEMMA, ParallelConfig(), torch.float32).layernorm_zero_centered_gamma
