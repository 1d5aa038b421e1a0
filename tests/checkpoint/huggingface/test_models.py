"""Exported directories in transformers' own classes, and back again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.checkpoint.huggingface import write as write_module
from recipes.checkpoint.huggingface.config import architecture_of, from_hf_config, to_hf_config
from recipes.checkpoint.huggingface.read import open_huggingface
from recipes.checkpoint.huggingface.tokenizer import special_ids, write_tokenizer
from recipes.config.hydra_app import compose
from recipes.config.jobs import CONF_DIR
from recipes.config.validate_model import check_family_settings
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig
from tests.support.corpus import TinyData
from tests.support.engine import initialized, process_groups
from tests.support.huggingface_models import (
    CASES,
    EXPERTS,
    GEMMA3,
    GLM4,
    LLAMA,
    export,
    loaded,
    module_cache,
    shaken,
    stored_in,
    tensors_of,
    tokens_for,
)

TINY_YAML = sorted(path.stem for path in (CONF_DIR / "model").glob("tiny*.yaml"))
# What only training uses; a Hugging Face configuration has no place for it.
TRAINING_ONLY = {
    "make_vocab_size_divisible_by",
    "init_method",
    "init_method_std",
    "embedding_init_method_std",
    "use_scaled_init_method",
    "hidden_dropout",
    "attention_dropout",
    "moe_router_bias_update_rate",
    "moe_router_load_balancing_type",
    "moe_aux_loss_coeff",
    "moe_importance_loss_coeff",
    "moe_load_loss_coeff",
}


@pytest.fixture(scope="module", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with process_groups(), module_cache(tmp_path_factory.mktemp("modules")):
        yield


@pytest.mark.parametrize("case", CASES)
def test_logits_in_transformers(case: str, tmp_path: Path) -> None:
    model = CASES[case]
    check_family_settings(model)
    gpt = shaken(initialized(model)).eval()
    directory = export(tmp_path / "hf", model, stored_in(tmp_path / "ours", tensors_of(gpt)))
    theirs = loaded(directory, model)
    tokens = tokens_for(model)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.no_grad():
        ours = gpt(tokens, positions, None)[..., : model.vocab_size]
        expected = theirs(tokens).logits
    assert expected.dtype == torch.float32 and expected.std() > 0.2, "the comparison would say nothing"
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "mixtral", "glm4_moe", "gemma3", "nano_hindi"])
def test_tokenizer_beside_the_model(case: str, tiny_data: TinyData, tmp_path: Path) -> None:
    """transformers takes tokenizer.json as it is, whatever the model's own tokenizer class would do."""
    from transformers import AutoTokenizer

    model = replace(CASES[case], vocab_size=800)
    stored = stored_in(tmp_path / "ours", tensors_of(shaken(initialized(model))))
    ours = load_tokenizer(tiny_data.tokenizer)
    ids = special_ids(ours, "eos")
    directory = export(tmp_path / "hf", model, stored, bos_id=ids.bos, eos_id=ids.eos, pad_id=ids.pad)
    assert write_tokenizer(directory, tiny_data.tokenizer, document_start="eos", max_length=64) == []
    remote = architecture_of(model).remote_code is not None
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=remote)
    for text in ("  The river — नदी\n\n12 \u2581 🙂", "है"):
        encoded = tokenizer(text, return_tensors="pt")
        assert encoded["input_ids"][0].tolist() == [ours.eos_id, *ours.encode(text)]
    theirs = loaded(directory, model)
    assert (theirs.generation_config.bos_token_id, theirs.generation_config.eos_token_id) == (2, 2)
    encoded.pop("token_type_ids", None)
    assert (
        theirs.generate(**encoded, max_new_tokens=3, do_sample=False).shape[1] > encoded["input_ids"].shape[1]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TINY_YAML)
def test_round_trip_is_exact(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = described(name, vocab_size=2000)
    tensors = {
        key: tensor if ".router." in key else tensor.to(dtype)
        for key, tensor in tensors_of(shaken(initialized(model))).items()
    }
    directory = export(tmp_path / "hf", model, stored_in(tmp_path / "ours", tensors))
    back = open_huggingface(directory)
    assert back.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        found = back.tensors[key].load()
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, key
        if found.shape[0] == 2048:
            assert not found[2000:].any(), "padded rows come back as zeros"
            found, tensor = found[:2000], tensor[:2000]
        assert torch.equal(found, tensor.cpu()), key
    assert computed(back.model) == computed(model)
    check_family_settings(back.model)


def described(name: str, **changes: Any) -> ModelConfig:
    settings = ["name=x", "data.seq_length=64", "trainer.max_steps=1", f"model={name}"]
    return replace(compose("pretrain", settings).model, **changes)


def computed(model: ModelConfig) -> dict[str, Any]:
    """What decides the function that the model computes, defaults filled in."""
    fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(ModelConfig)}
    fields["kv_channels"] = model.kv_channels or model.hidden_size // model.num_attention_heads
    fields["num_query_groups"] = model.num_query_groups or model.num_attention_heads
    if model.num_moe_experts:
        fields["moe_ffn_hidden_size"] = model.moe_ffn_hidden_size or model.ffn_hidden_size
    if model.family == "param_moe":
        fields["rotary_base"] = None
    return {key: value for key, value in fields.items() if key not in TRAINING_ONLY}


@pytest.mark.parametrize("case", CASES)
def test_config_comes_back(case: str) -> None:
    model = CASES[case]
    config = json.loads(json.dumps(to_hf_config(model, dtype="float32", bos_id=1, eos_id=2, pad_id=None)))
    back = from_hf_config(config)
    different = {
        key: (value, computed(back)[key])
        for key, value in computed(model).items()
        if value != computed(back)[key]
    }
    # Layer 1 is dense already because only every second one has experts.
    assert different.keys() == ({"first_k_dense_replace"} if case == "qwen3_moe_some_layers" else set())
    assert tensor_table(back) == tensor_table(model)


def test_older_and_newer_keys() -> None:
    config = to_hf_config(LLAMA, dtype="bfloat16", bos_id=1, eos_id=2, pad_id=None)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500.0
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    older = {
        key: value for key, value in config.items() if key not in ("rope_parameters", "head_dim", "dtype")
    }
    older["head_dim"] = None
    assert from_hf_config(older).rotary_base == 500
    gemma = to_hf_config(GEMMA3, dtype="float32", bos_id=None, eos_id=None, pad_id=None)
    del gemma["rope_parameters"]
    assert from_hf_config(gemma).rotary_base_local == 50


def test_published_param_class_is_llama(tmp_path: Path) -> None:
    gpt = shaken(initialized(LLAMA))
    directory = export(tmp_path / "hf", LLAMA, stored_in(tmp_path / "ours", tensors_of(gpt)))
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "parambharatgen", "architectures": ["ParamBharatGenForCausalLM"]}
    config["auto_map"] = {"AutoConfig": "modeling_evil.Config"}  # Never looked at.
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "modeling_evil.py").write_text("raise SystemExit")
    weights = load_file(directory / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, directory / "model.safetensors")
    found = open_huggingface(directory)
    assert computed(found.model) == computed(LLAMA)
    name = "decoder.layers.1.self_attention.linear_qkv.weight"
    assert torch.equal(found.tensors[name].load(), tensors_of(gpt)[name].cpu())
    assert found.tokenizer_files == {}
    (directory / "tokenizer.json").write_text("{}")
    # The model's own file may be what names the end of a document.
    beside = {"tokenizer.json", "generation_config.json"}
    assert set(open_huggingface(directory).tokenizer_files) == beside
    (directory / "tokenizer.model").write_text("")
    assert set(open_huggingface(directory).tokenizer_files) == beside | {"tokenizer.model"}


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral", "glm4_moe"])
def test_fused_experts_are_read(case: str, tmp_path: Path) -> None:
    """As transformers 5 holds them in memory, and may store them."""
    model = CASES[case]
    tensors = tensors_of(shaken(initialized(model)))
    directory = export(tmp_path / "hf", model, stored_in(tmp_path / "ours", tensors))
    state = {key: value.contiguous() for key, value in loaded(directory, model).state_dict().items()}
    if model.share_embeddings_and_output_weights:
        state.pop("lm_head.weight")
    if case == "mixtral":
        state = {key.replace(".mlp.", ".block_sparse_moe."): value for key, value in state.items()}
    assert any(key.endswith("experts.gate_up_proj") for key in state)
    save_file(state, directory / "model.safetensors")
    found = open_huggingface(directory).tensors
    for key, tensor in tensors.items():
        expected = tensor.cpu().clone()
        if key in ("embedding.word_embeddings.weight", "output_layer.weight"):
            expected[model.vocab_size :] = 0
        assert torch.equal(found[key].load(), expected), key


def test_tied_head(tmp_path: Path) -> None:
    model = replace(LLAMA, share_embeddings_and_output_weights=True)
    stored = stored_in(tmp_path / "ours", tensors_of(initialized(model)))
    directory = export(tmp_path / "hf", model, stored)
    weights = load_file(directory / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": embedding.clone()}, directory / "model.safetensors")
    assert torch.equal(
        open_huggingface(directory).tensors["embedding.word_embeddings.weight"].load()[:250], embedding
    )
    save_file(weights | {"lm_head.weight": embedding + 1}, directory / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.weight is another than model\.embed_tokens\.weight"):
        open_huggingface(directory)


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files and their index, in blocks smaller than a tensor, load as one file does."""
    monkeypatch.setattr(write_module, "SHARD_BYTES", 40_000)
    monkeypatch.setattr(write_module, "BLOCK_BYTES", 1_000)
    tensors = tensors_of(shaken(initialized(GLM4)))
    done: list[int] = []
    stored = stored_in(tmp_path / "ours", tensors)
    directory = export(tmp_path / "hf", GLM4, stored)
    write_module.write_weights(directory, stored, tensor_table(GLM4), lambda name, dtype: dtype, done.append)
    assert sum(done) == sum(tensor.nbytes for tensor in stored.values())
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in directory.glob("*.safetensors"))
    assert len(files) > 2 and files == sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in files for tensor in load_file(directory / file).values()
    )
    loaded(directory, GLM4)
    found = open_huggingface(directory).tensors
    assert all(
        torch.equal(found[key].load()[: GLM4.vocab_size], tensor.cpu()[: GLM4.vocab_size])
        for key, tensor in tensors.items()
    )


def test_stored_types_are_chosen_per_tensor(tmp_path: Path) -> None:
    stored = stored_in(tmp_path / "ours", tensors_of(shaken(initialized(GLM4))))
    directory = tmp_path / "hf"
    directory.mkdir()

    def dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
        return dtype if ".router." in name else torch.bfloat16

    write_module.write_weights(directory, stored, tensor_table(GLM4), dtype_of, lambda done: None)
    weights = load_file(directory / "model.safetensors")
    wide = {name for name, weight in weights.items() if weight.dtype == torch.float32}
    assert wide == {
        f"model.layers.{layer}.mlp.gate.{part}"
        for layer in (1, 2, 3)
        for part in ("weight", "e_score_correction_bias")
    }
    name = "model.layers.0.self_attn.o_proj.weight"
    expected = stored["decoder.layers.0.self_attention.linear_proj.weight"].load().bfloat16()
    assert torch.equal(weights[name], expected)


REFUSED = {
    "window_size": replace(LLAMA, window_size=8, window_pattern="SL"),
    "normalization": replace(LLAMA, normalization="LayerNorm"),
    "activation": replace(LLAMA, activation="gelu"),
    "add_bias_linear": replace(LLAMA, add_bias_linear=True),
    "position_embedding_type": replace(LLAMA, position_embedding_type="learned_absolute"),
    "rotary_percent": replace(LLAMA, rotary_percent=0.5),
    "megatron": replace(LLAMA, megatron={"rotary_interleaved": True}),
    "num_attention_heads": replace(LLAMA, hidden_size=50),
    "moe_expert_capacity_factor": replace(EXPERTS, moe_expert_capacity_factor=1.0),
    "qk_layernorm": replace(EXPERTS, qk_layernorm=False, moe_router_pre_softmax=True),
    "moe_layer_freq": replace(GLM4, moe_layer_freq=2),
    "moe_router_enable_expert_bias": replace(GLM4, moe_router_enable_expert_bias=False),
    "moe_shared_expert_intermediate_size": replace(GLM4, moe_shared_expert_intermediate_size=60),
}


@pytest.mark.parametrize("key", REFUSED)
def test_settings_without_a_class_are_refused_by_name(key: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}="):
        to_hf_config(REFUSED[key], dtype="float32", bos_id=None, eos_id=None, pad_id=None)
