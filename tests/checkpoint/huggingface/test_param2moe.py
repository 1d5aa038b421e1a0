"""The layout of Param-2 as published, which vLLM's Param2MoEForCausalLM reads; and back again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from recipes.checkpoint.convert import convert
from recipes.checkpoint.huggingface.config import from_hf_config, to_hf_config
from recipes.checkpoint.huggingface.read import open_huggingface
from recipes.checkpoint.open import open_stored_model
from recipes.config.hydra_app import compose
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.inference.verify_conversion import compare_logits
from recipes.plan.accounting import count_parameters
from tests.support.engine import initialized, process_groups
from tests.support.huggingface_models import (
    CASES,
    GLM4,
    export,
    loaded,
    module_cache,
    shaken,
    stored_in,
    tensors_of,
    tokens_for,
)

LAYOUT = "param2moe"
PARAM2 = {
    "as_published": GLM4,
    "untied_without_shared_experts": replace(
        GLM4, share_embeddings_and_output_weights=False, moe_shared_expert_intermediate_size=None
    ),
    "without_bias_and_norms": replace(
        GLM4, moe_router_enable_expert_bias=False, qk_layernorm=False, moe_shared_expert_intermediate_size=60
    ),
    "one_expert": replace(GLM4, moe_router_topk=1, moe_router_topk_scaling_factor=None),
}


@pytest.fixture(scope="module", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with process_groups(), module_cache(tmp_path_factory.mktemp("modules")):
        yield


def exported(directory: Path, model: ModelConfig) -> Path:
    stored = stored_in(directory / "ours", tensors_of(shaken(initialized(model))))
    return export(directory / "hf", model, stored, layout=LAYOUT)


def vllms(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes that vLLM's class loads, written down from its source and no code of this project.

    vllm/model_executor/models/param2moe.py at commit 055e47c28003: what its WeightsMapper renames
    (word_embeddings, attention.*, mlp.gate.expert_bias), what it stacks (gate_proj and up_proj), the experts'
    names, and the sizes of its modules.
    """
    h, d, vocabulary = model.hidden_size, model.kv_channels or 0, model.vocab_size
    queries, values = model.num_attention_heads * d, (model.num_query_groups or 0) * d

    def mlp(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        return {
            f"{prefix}.gate_proj.weight": (width, h),
            f"{prefix}.up_proj.weight": (width, h),
            f"{prefix}.down_proj.weight": (h, width),
        }

    found: dict[str, tuple[int, ...]] = {
        "model.word_embeddings.weight": (vocabulary, h),
        "model.norm.weight": (h,),
    }
    if not model.share_embeddings_and_output_weights:
        found["lm_head.weight"] = (vocabulary, h)
    for layer in range(model.num_layers):
        name = f"model.layers.{layer}"
        found |= {
            f"{name}.input_layernorm.weight": (h,),
            f"{name}.post_attention_layernorm.weight": (h,),
            f"{name}.attention.query_key_value.weight": (queries + 2 * values, h),
            f"{name}.attention.dense.weight": (h, queries),
        }
        if model.qk_layernorm:
            found |= {f"{name}.attention.{x}_layernorm.weight": (d,) for x in ("query", "key")}
        if layer < model.first_k_dense_replace:
            found |= mlp(f"{name}.mlp", model.ffn_hidden_size)
            continue
        experts, width = model.num_moe_experts or 0, model.moe_ffn_hidden_size or 0
        found[f"{name}.mlp.gate.weight"] = (experts, h)
        if model.moe_router_enable_expert_bias:
            found[f"{name}.mlp.gate.expert_bias"] = (experts,)
        for expert in range(experts):
            found |= mlp(f"{name}.mlp.experts.{expert}", width)
        if model.moe_shared_expert_intermediate_size:
            found |= mlp(f"{name}.mlp.shared_experts", model.moe_shared_expert_intermediate_size)
    return found


@pytest.mark.parametrize("case", PARAM2)
def test_names_and_shapes_are_those_that_vllm_reads(case: str, tmp_path: Path) -> None:
    directory = exported(tmp_path, PARAM2[case])
    with safe_open(directory / "model.safetensors", "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert stored == vllms(PARAM2[case])
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["Param2MoEForCausalLM"] and config["model_type"] == LAYOUT


def test_queries_keys_and_values_are_one_after_the_other(tmp_path: Path) -> None:
    """[Q|K|V], each of all heads, as vLLM's QKVParallelLinear splits it; ours are by query group."""
    model = PARAM2["as_published"]
    ours = tensors_of(shaken(initialized(model)))["decoder.layers.1.self_attention.linear_qkv.weight"]
    directory = exported(tmp_path, model)
    with safe_open(directory / "model.safetensors", "pt") as file:
        theirs = file.get_tensor("model.layers.1.attention.query_key_value.weight")
    heads, groups, d = model.num_attention_heads, model.num_query_groups or 0, model.kv_channels or 0
    each = ours.view(groups, heads // groups + 2, d, model.hidden_size)
    parts = (each[:, :-2], each[:, -2], each[:, -1])
    assert torch.equal(theirs, torch.cat([part.reshape(-1, model.hidden_size) for part in parts]))


@pytest.mark.parametrize("case", PARAM2)
def test_logits_in_transformers(case: str, tmp_path: Path) -> None:
    model = PARAM2[case]
    gpt = shaken(initialized(model)).eval()
    directory = export(tmp_path / "hf", model, stored_in(tmp_path / "ours", tensors_of(gpt)), layout=LAYOUT)
    theirs = loaded(directory, model, layout=LAYOUT)
    tokens = tokens_for(model)
    with torch.no_grad():
        ours = gpt(tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None)[..., : model.vocab_size]
        expected = theirs(tokens).logits
    assert expected.std() > 0.2 and (ours - expected).abs().max() < 1e-5


def test_vllm_finds_its_settings(tmp_path: Path) -> None:
    """All that its class asks the configuration for, as transformers loads it."""
    from transformers import AutoConfig

    model = PARAM2["as_published"]
    config = AutoConfig.from_pretrained(exported(tmp_path, model), trust_remote_code=True)
    expected = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.kv_channels,
        "intermediate_size": model.ffn_hidden_size,
        "max_position_embeddings": model.max_position_embeddings,
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_theta": model.rotary_base,
        "tie_word_embeddings": True,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_bias": False,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "num_shared_experts": 2,
        "moe_shared_expert_intermediate_size": 80,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "routed_scaling_factor": 2.5,
    }
    assert {key: getattr(config, key) for key in expected} == expected
    # It gives its rotation a "base" and what rope_scaling holds; the rotation asks for rope_theta.
    assert config.rope_scaling["rope_theta"] == model.rotary_base
    assert config.rope_scaling["rope_type"] == "default"
    assert getattr(config, "partial_rotary_factor", 1.0) == 1.0


@pytest.mark.parametrize("case", PARAM2)
def test_round_trip(case: str, tmp_path: Path) -> None:
    model = PARAM2[case]
    tensors = tensors_of(shaken(initialized(model)))
    directory = export(tmp_path / "hf", model, stored_in(tmp_path / "ours", tensors), layout=LAYOUT)
    found = open_huggingface(directory)
    kept = replace(found.model, moe_router_bias_update_rate=model.moe_router_bias_update_rate)
    assert kept == replace(model, init_method_std=found.model.init_method_std)
    for name, tensor in found.tensors.items():
        rows = min(tensor.shape[0], model.vocab_size) if "embedding" in name or "output" in name else None
        assert torch.equal(tensor.load()[:rows], tensors[name].cpu()[:rows]), name


def test_by_the_converter(tmp_path: Path) -> None:
    """From the usual Hugging Face layout to this one and to torch_dist: the logits are the same."""
    model = PARAM2["as_published"]
    stored = stored_in(tmp_path / "ours", tensors_of(shaken(initialized(model))))
    usual = export(tmp_path / "usual", model, stored)
    convert(usual, tmp_path / "theirs", "hf", layout=LAYOUT)
    assert compare_logits(usual, tmp_path / "theirs").agrees
    convert(tmp_path / "theirs", tmp_path / "back", "torch_dist")
    comparison = compare_logits(tmp_path / "theirs", tmp_path / "back")
    assert comparison.agrees and comparison.second_reader == "transformers"
    with open_stored_model(usual) as first, open_stored_model(tmp_path / "back") as last:
        assert first.tensors.keys() == last.tensors.keys()


def published() -> dict[str, Any]:
    """Keys and values of the published model's config.json."""
    return {
        "architectures": ["Param2MoEForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_param2moe.Param2MoEConfig"},
        "model_type": LAYOUT,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "first_k_dense_replace": 1,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.014,
        "intermediate_size": 9216,
        "max_position_embeddings": 32768,
        "max_window_layers": 20,
        "moe_intermediate_size": 2048,
        "moe_router_enable_expert_bias": True,
        "moe_shared_expert_intermediate_size": 4096,
        "mtp_loss_scaling_factor": 0,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 64,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 21,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 0,
        "num_shared_experts": 2,
        "output_router_logits": False,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 500000,
        "routed_scaling_factor": 2.5,
        "router_dtype": "fp32",
        "score_function": "sigmoid",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_bias": False,
        "use_cache": True,
        "use_qk_norm": True,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
        "vocab_size": 128000,
    }


def test_the_published_configuration_is_param2() -> None:
    model = compose("pretrain", ["name=x", "data.seq_length=1", "model=param2_17b_a2p4b"]).model
    found = from_hf_config(published())
    # What only training uses is in no config.json.
    training = ("moe_router_load_balancing_type", "moe_aux_loss_coeff")
    assert replace(found, **{key: getattr(model, key) for key in training}) == model
    ours = to_hf_config(model, dtype="bfloat16", bos_id=None, eos_id=3, pad_id=0, layout=LAYOUT)
    theirs = published()
    shared = (ours.keys() & theirs.keys()) - {"auto_map", "use_cache", "rope_scaling"}
    assert len(shared) > 30 and {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    # All of vLLM's tensors hold the model's parameters, and the biases, which are no parameters.
    numbers = sum(math.prod(shape) for shape in vllms(model).values())
    assert numbers == count_parameters(model).total + 20 * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score_function": "softmax"}, "score_function"),
        ({"use_bias": True}, "use_bias"),
        ({"use_qkv_bias": True}, "use_qkv_bias"),
        ({"use_rmsnorm": False}, "use_rmsnorm"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"n_group": 8}, "n_group"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"output_dropout": 0.1}, "output_dropout"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ({"sliding_window": 128}, "sliding_window"),
    ],
)
def test_what_it_might_compute_otherwise_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_hf_config(published() | change)


def config_of(model: ModelConfig) -> dict[str, Any]:
    return to_hf_config(model, dtype="float32", bos_id=None, eos_id=None, pad_id=None, layout=LAYOUT)


@pytest.mark.parametrize("case", ["gemma3", "nano_hindi", "param_moe"])
def test_other_families_have_no_such_layout(case: str) -> None:
    with pytest.raises(
        UserError, match=f"layout param2moe: the family {CASES[case].family} has no such layout"
    ):
        config_of(CASES[case])


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("llama", "moe_router_score_function"),
        ("mistral", "window_size"),
        ("qwen3_moe", "moe_router_score_function=softmax"),
        ("glm4_moe_partly_rotated", "rotary_percent"),
    ],
)
def test_models_of_the_family_that_it_cannot_hold(case: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"model.{said}.*: the layout param2moe cannot say that"):
        config_of(CASES[case])
    stored = stored_in(tmp_path / "ours", tensors_of(initialized(CASES[case])))
    usual = export(tmp_path / "usual", CASES[case], stored)
    with pytest.raises(UserError, match=said):
        convert(usual, tmp_path / "theirs", "hf", layout=LAYOUT)
    assert not (tmp_path / "theirs").exists()
