"""GPT-NeoX's kind (arXiv 2204.06745, section 2.1): attention and MLP read the same residual stream.

A family that no file of the project knows: an installed package names it in its entry points. What is known
of it without torch is here, its layers are in parallel_gpt_layers.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recipes.checks import refuse
from recipes.families.blocks import Table, norm, whole_model
from recipes.families.family import Architecture, Family
from recipes.families.hugging_face import check_head_count, dropout, epsilon
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups
from recipes.families.settings import NORMAL_INIT, ROTARY
from recipes.families.tensors import ATTENTION, MLP, Rows, qkv, same
from recipes.families.values import Values

GPT_NEOX = Architecture("GPTNeoXForCausalLM", "gpt_neox")


def check(model: ModelConfig) -> None:
    """
    Raises:
        UserError: grouped queries, which the family has not.
    """
    if num_query_groups(model) != model.num_attention_heads:
        fix = f"the parallel_gpt family needs {model.num_attention_heads}, num_attention_heads"
        refuse("model.num_query_groups", model.num_query_groups, fix)


def tensors(model: ModelConfig) -> Table:
    """Every tensor, in the order of the layers."""
    return whole_model(
        model,
        _layer,
        norm("decoder.final_layernorm.", "gpt_neox.final_layer_norm.", model),
        embedding="gpt_neox.embed_in.weight",
        layers="gpt_neox.layers",
        output="embed_out.weight",
    )


def _layer(model: ModelConfig, layer: int) -> Table:
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    width = model.num_attention_heads * kv_channels(model)
    table = norm("self_attention.linear_qkv.layer_norm_", "input_layernorm.", model)
    table += norm("mlp.linear_fc1.layer_norm_", "post_attention_layernorm.", model)
    for part, tail in (("weight", (hidden,)), ("bias", ())):
        # transformers keeps queries, keys and values of a head together, as megatron-core does.
        projection = qkv(f"self_attention.linear_qkv.{part}", ("", "", ""), tail, model, ATTENTION)
        whole = Rows(0, 0, 0, 3 * width)
        table.append(replace(projection, theirs=(f"attention.query_key_value.{part}",), runs=(whole,)))
    matrices = (
        ("self_attention.linear_proj", "attention.dense", (hidden, width), ATTENTION),
        ("mlp.linear_fc1", "mlp.dense_h_to_4h", (inner, hidden), MLP),
        ("mlp.linear_fc2", "mlp.dense_4h_to_h", (hidden, inner), MLP),
    )
    for ours, theirs, shape, part in matrices:
        table.append(same(f"{ours}.weight", f"{theirs}.weight", shape, part, multiplied=True, split=True))
        table.append(same(f"{ours}.bias", f"{theirs}.bias", shape[:1], part, split=ours.endswith("fc1")))
    return table


def architecture(model: ModelConfig) -> Architecture:
    """
    Raises:
        UserError: transformers' class refuses the number of heads.
    """
    check_head_count(model)
    return GPT_NEOX


def to_hugging_face(model: ModelConfig) -> dict[str, Any]:
    """Keys of config.json beside those that every class has."""
    base, share = float(model.rotary_base), model.rotary_percent
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": model.layernorm_epsilon,
        "initializer_range": model.init_method_std,
        "attention_bias": True,
        "use_parallel_residual": True,
        "attention_dropout": model.attention_dropout,
        "hidden_dropout": model.hidden_dropout,
        "rope_parameters": {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": share},
    }


def _from_gpt_neox(values: Values) -> dict[str, Any]:
    values.choice("hidden_act", ("gelu",), "gelu")
    for key in ("attention_bias", "use_parallel_residual"):
        if not values.flag(key, True):
            values.refuse(key, "no family here computes that")
    rope = values.mapping("rope_parameters")
    rope.choice("rope_type", ("default",), "default")
    return {
        "activation": "gelu",
        "normalization": "LayerNorm",
        "add_bias_linear": True,
        "hidden_dropout": dropout(values, "hidden_dropout"),
        "rotary_base": int(rope.number("rope_theta", 10000.0)),
        "rotary_percent": rope.number("partial_rotary_factor", 0.25),
        **epsilon(values, "layer_norm_eps", 1e-5),
    }


FAMILY = Family(
    name="parallel_gpt",
    layers="tests.families.parallel_gpt_layers",
    tensors=tensors,
    settings=ROTARY | NORMAL_INIT,
    choices={
        "activation": ("gelu",),
        "normalization": ("LayerNorm",),
        "add_bias_linear": (True,),
        "position_embedding_type": ("rope",),
        "qk_layernorm": (False,),
        "share_embeddings_and_output_weights": (False,),
    },
    check=check,
    architecture=architecture,
    to_hugging_face=to_hugging_face,
    from_hugging_face={"gpt_neox": _from_gpt_neox},
    config_keys=frozenset({"attention_bias"}),
)
