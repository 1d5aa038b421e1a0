"""GPTModel as we build it computes what transformers' Llama and GPT-2 compute: logits, loss and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.families.model_config import ModelConfig
from tests.support.engine import TINY, initialized
from tests.support.parity import (
    assert_logits_losses_and_gradients_agree,
    batch,
    give_weights,
    gradients,
    llama_names,
    shaken,
    weights,
)

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("groups", [1, 2, None], ids=["mqa", "gqa", "mha"])
def test_llama(tied: bool, groups: int | None) -> None:
    model = replace(
        TINY,
        num_query_groups=groups,
        share_embeddings_and_output_weights=tied,
        vocab_size=256,
        init_method_std=0.1,
        rotary_base=500,
        layernorm_epsilon=1e-3,
    )
    gpt = shaken(initialized(model))
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.num_layers,
            num_attention_heads=model.num_attention_heads,
            num_key_value_heads=groups or model.num_attention_heads,
            max_position_embeddings=model.max_position_embeddings,
            rms_norm_eps=model.layernorm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            tie_word_embeddings=tied,
            attn_implementation="eager",
        )
    ).to("cuda")
    give_weights(llama, llama_names(weights(gpt), model), without=["lm_head.weight"] if tied else [])
    assert_logits_losses_and_gradients_agree(
        gpt,
        lambda tokens: llama(tokens).logits,
        lambda tensors: llama_names(tensors, model),
        lambda: gradients(llama),
    )


def gpt2_names(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Likewise for GPT-2, whose linear layers are stored transposed."""
    out = {
        "transformer.wte.weight": tensors["embedding.word_embeddings.weight"],
        "transformer.wpe.weight": tensors["embedding.position_embeddings.weight"],
        "transformer.ln_f.weight": tensors["decoder.final_layernorm.weight"],
        "transformer.ln_f.bias": tensors["decoder.final_layernorm.bias"],
    }
    renamed = {
        "input_layernorm": "ln_1",
        "pre_mlp_layernorm": "ln_2",
        "self_attention.linear_proj": "attn.c_proj",
        "mlp.linear_fc1": "mlp.c_fc",
        "mlp.linear_fc2": "mlp.c_proj",
    }
    for i in range(model.num_layers):
        ours, theirs = f"decoder.layers.{i}.", f"transformer.h.{i}."
        for name, new in renamed.items():
            out[f"{theirs}{new}.weight"] = tensors[
                f"{ours}{name}.weight"
            ].t()  # .t() leaves vectors as they are.
            out[f"{theirs}{new}.bias"] = tensors[f"{ours}{name}.bias"]
        heads = (model.num_attention_heads, 3, -1)
        qkv = tensors[ours + "self_attention.linear_qkv.weight"]
        by_kind = qkv.view(*heads, model.hidden_size).transpose(0, 1).reshape(-1, model.hidden_size)
        out[theirs + "attn.c_attn.weight"] = by_kind.t()
        bias = tensors[ours + "self_attention.linear_qkv.bias"]
        out[theirs + "attn.c_attn.bias"] = bias.view(heads).transpose(0, 1).reshape(-1)
    return out


def test_gpt2() -> None:
    model = replace(
        TINY,
        num_query_groups=None,
        share_embeddings_and_output_weights=True,
        vocab_size=256,
        init_method_std=0.1,
        normalization="LayerNorm",
        activation="gelu",
        add_bias_linear=True,
        position_embedding_type="learned_absolute",
    )
    gpt = shaken(initialized(model))
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=256,
            n_positions=model.max_position_embeddings,
            n_embd=model.hidden_size,
            n_layer=model.num_layers,
            n_head=model.num_attention_heads,
            n_inner=model.ffn_hidden_size,
            activation_function="gelu",
            layer_norm_epsilon=model.layernorm_epsilon,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
    ).to("cuda")
    give_weights(gpt2, gpt2_names(weights(gpt), model), without=["lm_head.weight"])
    assert_logits_losses_and_gradients_agree(
        gpt,
        lambda tokens: gpt2(tokens).logits,
        lambda tensors: gpt2_names(tensors, model),
        lambda: gradients(gpt2),
        atol=2e-5,
    )


@pytest.mark.parametrize("kind", ["hidden_dropout", "attention_dropout"])
def test_dropout_trains_and_is_off_in_evaluation(kind: str) -> None:
    gpt = initialized(replace(TINY, init_method_std=0.1, **{kind: 0.2}))
    tokens, labels, positions = batch(250)

    def loss() -> Tensor:
        return gpt(tokens, positions, None, labels=labels).mean()

    gpt.train()
    assert loss().item() != loss().item()
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=3e-3)
    first = loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    gpt.eval()
    assert loss().item() == loss().item()
    assert loss().item() < first - 1.0
