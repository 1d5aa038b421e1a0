"""The Llama line with experts and QK-norm against transformers' Qwen3, Qwen3-MoE, Mixtral and GLM-4-MoE.

GLM-4-MoE has Param-2's arithmetic: a dense first layer, sigmoid scores, a bias that only chooses, scaled
weights and shared experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.families.model_config import ModelConfig
from recipes.model.backend import TorchSpecProvider
from recipes.model.build import transformer_config
from recipes.model.families.llama import block_spec
from recipes.model.norm import TorchNorm
from recipes.model.router import routers
from recipes.optim.build import build_optimizer
from recipes.training.step import forward_backward
from tests.support.engine import TINY, initialized
from tests.support.parity import (
    assert_completions_are_the_full_forward,
    assert_gradients_agree,
    assert_logits_losses_and_gradients_agree,
    batch,
    give_weights,
    gradients,
    llama_names,
    shaken,
    weights,
)

pytestmark = pytest.mark.usefixtures("engine")

BASE = replace(
    TINY,
    hidden_size=48,
    num_attention_heads=4,
    kv_channels=16,
    vocab_size=256,
    init_method_std=0.1,
    rotary_base=500,
    layernorm_epsilon=1e-3,
    qk_layernorm=True,
)
EXPERTS = replace(BASE, num_layers=3, num_moe_experts=6, moe_ffn_hidden_size=40, moe_router_topk=2)
PARAM2 = replace(
    EXPERTS,
    moe_router_topk=3,
    first_k_dense_replace=1,
    share_embeddings_and_output_weights=True,
    moe_shared_expert_intermediate_size=80,
    moe_router_score_function="sigmoid",
    moe_router_enable_expert_bias=True,
    moe_router_topk_scaling_factor=2.5,
)


KINDS: dict[str, tuple[ModelConfig, type[PreTrainedModel], type[PretrainedConfig], dict[str, Any]]] = {
    "qwen3": (BASE, Qwen3ForCausalLM, Qwen3Config, {}),
    "qwen3_moe": (
        EXPERTS,
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {"num_experts": 6, "moe_intermediate_size": 40, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    "qwen3_moe_unnormalised": (
        replace(EXPERTS, moe_router_pre_softmax=True),
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        {"num_experts": 6, "moe_intermediate_size": 40, "num_experts_per_tok": 2, "norm_topk_prob": False},
    ),
    "mixtral": (
        replace(EXPERTS, qk_layernorm=False, moe_ffn_hidden_size=None),
        MixtralForCausalLM,
        MixtralConfig,
        {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "glm4_moe": (
        PARAM2,
        Glm4MoeForCausalLM,
        Glm4MoeConfig,
        {
            "n_routed_experts": 6,
            "moe_intermediate_size": 40,
            "num_experts_per_tok": 3,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.5,
            "use_qk_norm": True,
            "partial_rotary_factor": 1.0,
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parity(kind: str) -> None:
    model, causal_lm, config, options = KINDS[kind]
    gpt = shaken(initialized(model))
    tied = model.share_embeddings_and_output_weights
    rope = {"rope_type": "default", "rope_theta": 500.0}
    if "partial_rotary_factor" in options:
        rope["partial_rotary_factor"] = options["partial_rotary_factor"]
    theirs: Any = causal_lm(
        config(
            vocab_size=256,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=model.num_query_groups,
            head_dim=16,
            max_position_embeddings=model.max_position_embeddings,
            rms_norm_eps=model.layernorm_epsilon,
            rope_parameters=rope,
            tie_word_embeddings=tied,
            attn_implementation="eager",
            **options,
        )
    ).to("cuda")
    tensors = llama_names(weights(gpt), model)
    if model.moe_router_enable_expert_bias:
        for router in routers(gpt):
            name = f"model.layers.{router.layer_number - 1}.mlp.gate.e_score_correction_bias"
            tensors[name] = router.expert_bias
    give_weights(theirs, tensors, without=["lm_head.weight"] if tied else [])
    assert_logits_losses_and_gradients_agree(
        gpt,
        lambda tokens: theirs(tokens).logits,
        lambda tensors: llama_names(tensors, model),
        lambda: gradients(theirs),
    )
    for router in routers(gpt):
        assert (router.tokens_per_expert > 0).all(), "an expert without tokens has not been compared"


def test_checkpoint_names_are_transformer_engines() -> None:
    """The norm before experts stays a module of its own there, the one before a dense MLP does not."""
    keys = {tensor.key for tensor in initialized(PARAM2).sharded_state_dict().values()}
    layers = "decoder.layers."
    for name in (
        "0.self_attention.linear_qkv.layer_norm_weight",
        "0.mlp.linear_fc1.layer_norm_weight",
        "1.pre_mlp_layernorm.weight",
        "1.self_attention.q_layernorm.weight",
        "1.mlp.router.weight",
        "1.mlp.router.expert_bias",
        "1.mlp.experts.experts.linear_fc1.weight",
        "1.mlp.shared_experts.linear_fc2.weight",
    ):
        assert layers + name in keys, name
    assert layers + "0.pre_mlp_layernorm.weight" not in keys


def step_gradients(model: ModelConfig, micro_batch_size: int) -> tuple[GPTModel, dict[str, Tensor]]:
    """Gradients of one optimizer step over four sequences, as the training loop makes them."""
    gpt = shaken(initialized(model))
    ddp = DistributedDataParallel(
        gpt.config, DistributedDataParallelConfig(use_distributed_optimizer=True), gpt
    )
    optimizer = build_optimizer(OptimConfig(lr=1e-3), ParallelConfig(), torch.float32, [ddp])
    gpt.config.finalize_model_grads_func = finalize_model_grads
    gpt.config.grad_scale_func = optimizer.scale_loss
    text = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(3)).to("cuda")
    fields = {
        "tokens": text[:, :-1].contiguous(),
        "labels": text[:, 1:].contiguous(),
        "loss_mask": torch.ones(4, 32, device=text.device),
    }
    forward_backward(ddp, fields, micro_batch_size=micro_batch_size, forward_only=False)
    return gpt, {name: p.main_grad.clone() for name, p in gpt.named_parameters()}


def test_balancing_by_sequence_does_not_depend_on_micro_batches() -> None:
    """Four micro-batches of one sequence and one of four have the same gradients, with balancing losses."""
    balanced = replace(
        PARAM2, moe_router_load_balancing_type="seq_aux_loss", moe_aux_loss_coeff=0.5, moe_z_loss_coeff=0.1
    )
    _, whole = step_gradients(balanced, 4)
    _, parts = step_gradients(balanced, 1)
    assert_gradients_agree(parts, whole)
    _, without = step_gradients(PARAM2, 4)
    router = "decoder.layers.1.mlp.router.weight"
    assert (whole[router] - without[router]).norm() > 0.1 * without[router].norm(), "the losses must matter"


def test_weight_of_the_balancing_loss() -> None:
    """Its gradient is that of coefficient * experts * sum over experts of (share of tokens * mean score)."""
    coefficient = 0.7
    model = replace(
        EXPERTS,
        num_layers=1,
        moe_router_load_balancing_type="seq_aux_loss",
        moe_aux_loss_coeff=coefficient,
        moe_z_loss_coeff=0.3,
    )
    _, without = step_gradients(replace(model, moe_aux_loss_coeff=0.0, moe_z_loss_coeff=None), 2)
    gpt, with_losses = step_gradients(model, 2)
    seen: list[Tensor] = []
    text = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(3)).to("cuda")
    gpt.decoder.layers[0].mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    gpt(text[:, :-1], torch.arange(32, device=text.device).expand(4, -1), None)
    hidden = seen[0].detach().double()  # [s, b, h]
    weight = gpt.decoder.layers[0].mlp.router.weight.detach().double().requires_grad_()
    logits = hidden @ weight.t()
    scores = logits.softmax(-1)
    chosen = torch.zeros_like(scores).scatter(-1, logits.topk(2, dim=-1).indices, 1.0)
    share = chosen.mean(dim=0) / 2  # [b, experts]
    loss = coefficient * (6 * (share * scores.mean(dim=0)).sum(-1)).mean()
    (loss + 0.3 * logits.logsumexp(-1).square().mean()).backward()
    assert weight.grad is not None
    name = "decoder.layers.0.mlp.router.weight"
    torch.testing.assert_close(
        (with_losses[name] - without[name]).double(), weight.grad, rtol=1e-4, atol=1e-6
    )


def test_expert_bias_moves_against_the_load() -> None:
    """After a step each bias has moved by the rate, up for experts below the mean load (arXiv 2408.15664)."""
    model = replace(PARAM2, moe_router_bias_update_rate=0.125)
    before = [router.expert_bias.clone() for router in routers(shaken(initialized(model)))]
    gpt, _ = step_gradients(model, 1)
    assert len(before) == 2
    for router, old in zip(routers(gpt), before, strict=True):
        load = router.tokens_per_expert
        assert load.sum() == 4 * 32 * 3
        torch.testing.assert_close(router.expert_bias, old + 0.125 * torch.sign(load.mean() - load))
        assert router.local_tokens_per_expert.sum() == 0, "the next step counts anew"
    with torch.no_grad():  # As validation does.
        tokens, _, positions = batch(256)
        gpt.eval()(tokens, positions, None)
    for router in routers(gpt):
        assert router.tokens_per_expert.sum() == 4 * 32 * 3 and router.local_tokens_per_expert.sum() == 0


@pytest.mark.parametrize("model", [EXPERTS, PARAM2], ids=["softmax", "param2"])
def test_cached_decoding(model: ModelConfig) -> None:
    assert_completions_are_the_full_forward(shaken(initialized(model)))


class FusedProvider(TorchSpecProvider):
    """Transformer Engine's way of dividing a layer into modules; they are not built here."""

    def fuse_layernorm_and_linear(self) -> bool:
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        return ColumnParallelLinear


def test_transformer_engines_layers() -> None:
    """With it the norm before a dense MLP is fused, the one before experts is not, and no name is mapped."""
    config = transformer_config(PARAM2, ParallelConfig(), torch.float32)
    specs = block_spec(PARAM2, config, FusedProvider()).layer_specs
    dense, *mixtures = (layer.submodules for layer in specs)
    assert dense.input_layernorm is dense.pre_mlp_layernorm is IdentityOp
    assert dense.self_attention.submodules.q_layernorm is TorchNorm
    assert len(mixtures) == 2
    for mixture in mixtures:
        assert mixture.input_layernorm is IdentityOp and mixture.pre_mlp_layernorm is TorchNorm
    assert not any(layer.sharded_state_dict_keys_map for layer in (dense, *mixtures))
