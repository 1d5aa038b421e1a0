"""classic NeMo's model_config.yaml and our description: every key is honoured, harmless or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.checkpoint.convert import convert
from recipes.checkpoint.nemo.classic_config import (
    CLASSIC_TARGET,
    OUR_TARGET,
    from_nemo_config,
    is_classic,
    note_for_nemo,
    to_nemo_config,
)
from recipes.checkpoint.nemo.classic_keys import CARRIED, HARMLESS, SUPPORTED_VALUES
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.support.corpus import TinyData
from tests.support.nemo_files import CONFIG, FIXTURES, MAIN, changed, read_tar

# What NeMo 2.0.0 reads of a model's configuration without a default, so that it stops where a key is missing
# ("Key 'optim' is not in struct"). By the function that reads it; read off the source of nemo_toolkit 2.0.0:
# nemo/collections/nlp/models/language_modeling/megatron_base_model.py and megatron_gpt_model.py,
# nemo/collections/nlp/parts/megatron_trainer_builder.py.
READ_WITHOUT_DEFAULT = {
    "MegatronBaseModel.__init__": ("optim", "precision", "num_layers", "pipeline_model_parallel_size"),
    "MegatronBaseModel._build_tokenizer": ("tokenizer",),
    "MegatronBaseModel.build_model_parallel_config": ("hidden_size",),
    "MegatronBaseModel.compute_consumed_samples": ("micro_batch_size",),
    "MegatronGPTModel.model_provider_func": (
        "ffn_hidden_size",
        "max_position_embeddings",
        "num_attention_heads",
    ),
    "MegatronGPTModel.fwd_bwd_step": ("encoder_seq_length", "micro_batch_size"),
    "MegatronGPTModel._reset_activation_checkpointing_args": (
        "activations_checkpoint_granularity",
        "activations_checkpoint_method",
        "activations_checkpoint_num_layers",
        "activations_checkpoint_layers_per_pipeline",
    ),
    "MegatronGPTModel._reset_sequence_parallelism_args": ("sequence_parallel",),
    "MegatronGPTModel.build_train_valid_test_datasets": ("global_batch_size", "data", "seed"),
    "MegatronTrainerBuilder._training_strategy": ("gradient_as_bucket_view",),
}
READ_OF_DATA = (
    "data_prefix",
    "data_impl",
    "splits_string",
    "seq_length",
    "index_mapping_dir",
    "dataloader_type",
    "num_workers",
)
LLAMA = ModelConfig(
    num_layers=2,
    hidden_size=64,
    ffn_hidden_size=96,
    num_attention_heads=4,
    vocab_size=440,
    max_position_embeddings=64,
)
GPT = dataclasses.replace(
    LLAMA,
    normalization="LayerNorm",
    activation="gelu",
    add_bias_linear=True,
    position_embedding_type="learned_absolute",
)


def written(model: ModelConfig, **options: Any) -> dict[str, Any]:
    settings = {
        "tokenizer_file": "0_tok.model",
        "seq_length": 32,
        "micro_batch_size": 1,
        "global_batch_size": 1,
        "precision": 32,
        "seed": 1,
        "document_start": None,
    }
    config: dict[str, Any] = yaml.safe_load(yaml.safe_dump(to_nemo_config(model, **{**settings, **options})))
    return config


def read(config: dict[str, Any], rows: int = 512) -> ModelConfig:
    return from_nemo_config(config, tokenizer_vocab_size=440, stored_rows=rows)


def classic(**changes: Any) -> dict[str, Any]:
    """NeMo's own file with keys changed; a value of ``...`` removes the key."""
    config = {**yaml.safe_load(read_tar(MAIN / "model.nemo")[CONFIG]), **changes}
    return {key: value for key, value in config.items() if value is not ...}


def refusal(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nemo_finds_every_key_that_it_asks_for(tmp_path: Path) -> None:
    """In a file as training writes it, and in one that was made from NeMo's."""
    convert(MAIN / "model.nemo", tmp_path / "converted.nemo", "nemo")
    converted = yaml.safe_load(read_tar(tmp_path / "converted.nemo")[CONFIG])
    for config in (written(LLAMA), written(GPT), converted):
        missing = {key for keys in READ_WITHOUT_DEFAULT.values() for key in keys if key not in config}
        assert not missing and config["tokenizer"]["library"] == "sentencepiece"
        assert config["optim"]["name"] == "fused_adam"
        assert all(key in config["data"] for key in READ_OF_DATA)


def test_a_conversion_carries_nemos_own_options_on(tmp_path: Path) -> None:
    """Without them NeMo fuses and rounds otherwise. The layout of the run does not concern the new file."""
    source = classic(
        bias_activation_fusion=False,
        masked_softmax_fusion=True,
        activations_checkpoint_granularity="selective",
        tensor_model_parallel_size=4,
        sequence_parallel=True,
        restore_from_path="/lustre/private/model.nemo",
    )
    path = changed(
        MAIN / "model.nemo", tmp_path / "source.nemo", CONFIG, lambda _: yaml.safe_dump(source).encode()
    )
    convert(path, tmp_path / "converted.nemo", "nemo")
    config = yaml.safe_load(read_tar(tmp_path / "converted.nemo")[CONFIG])
    for key in source.keys() & CARRIED:
        assert config[key] == source[key], key
    assert {"masked_softmax_fusion", "bias_activation_fusion", "optim", "data"} <= source.keys() & CARRIED
    assert config["tensor_model_parallel_size"] == 1 and config["sequence_parallel"] is False
    assert "restore_from_path" not in config and config["tokenizer"]["sentencepiece_legacy"] is False
    back, wanted = read(config), read(source)
    assert dataclasses.replace(back, kv_channels=None, vocab_size=wanted.vocab_size) == wanted


@pytest.mark.parametrize("name", [path.name for path in FIXTURES.glob("classic_*")])
def test_nemos_own_files_are_known_key_by_key(name: str) -> None:
    config = yaml.safe_load(read_tar(FIXTURES / name / "model.nemo")[CONFIG])
    model = read(config)
    assert model.num_layers == 4 and model.window_size is None and model.megatron == {}


def test_a_window_of_all_layers_is_kept() -> None:
    """As NeMo's own convert_mistral_7b_hf_to_nemo.py writes it: 8 tokens to the left, and the query."""
    model = read(classic(window_size=[8, 0]))
    assert (model.window_size, model.window_pattern) == (9, "S")
    again = written(model)
    assert again["target"] == CLASSIC_TARGET and again["window_size"] == [8, 0]
    assert read(again).window_size == 9
    assert read(classic(window_size=[-1, 0])) == read(classic(window_size=None)) == read(classic())


@pytest.mark.parametrize("window", [[8, 4], [8, -1], [8], 8, "8", [True, 0], [2**40, 0], [-2, 0]])
def test_other_windows_are_refused(window: Any) -> None:
    assert refusal(classic(window_size=window)).startswith("model_config.yaml: window_size=")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0 is not known here"),
        ({"softmax_scale": 0.1}, "softmax_scale=0.1 is not known here"),
        ({"mcore_customization_config": {"final_logit_softcapping": 30.0}}, "mcore_customization_config={"),
        ({"hyena": {"filter_cls": "implicit"}}, "hyena={"),
        ({"qk_layernorm": True}, "qk_layernorm=True is not supported"),
        ({"qkv_bias": True}, "qkv_bias=True is not supported"),
        ({"apply_embedding_scaling": True}, "apply_embedding_scaling=True is not supported"),
        ({"megatron_legacy": True}, "megatron_legacy=True is not supported"),
        ({"name": "megatron_falcon_gpt"}, "name='megatron_falcon_gpt' is not supported"),
        ({"num_moe_experts": 8}, "num_moe_experts=8 is not supported"),
        ({"target": "nemo.x.megatron_griffin_model.MegatronGriffinModel"}, "target="),
        ({"peft": {"peft_scheme": "lora"}}, "peft.peft_scheme='lora': merge the adapters first"),
        ({"recipes": {"temperature": 0.5}}, "recipes: temperature=0.5 is not known here"),
    ],
)
def test_what_may_change_arithmetic_is_refused(changes: dict[str, Any], named: str) -> None:
    assert named in refusal(classic(**changes))


def test_a_key_that_is_no_text_is_refused() -> None:
    assert "7=7 is not known here" in refusal({**classic(), 7: 7})  # type: ignore[dict-item]


def test_tokens_that_nemo_would_add_are_refused() -> None:
    tokenizer = {**classic()["tokenizer"], "additional_special_tokens": ["<extra_id_0>"]}
    assert "tokenizer: additional_special_tokens=['<extra_id_0>']" in refusal(classic(tokenizer=tokenizer))


def test_what_says_nothing_or_changes_nothing_is_accepted() -> None:
    plain = read(classic())
    assert read(classic(some_new_option=None, another=False, a_list=[], a_section={}, a_name="")) == plain
    assert read(classic(moe_aux_loss_coeff=0.01, moe_router_topk=2, peft={"peft_scheme": None})) == plain
    assert read(classic(precision="bf16-mixed", fp8=True, optim=None, data={"x": 1})) == plain
    assert not HARMLESS & SUPPORTED_VALUES.keys()


def test_a_gelu_is_the_one_that_nemo_computes() -> None:
    """Fused with its bias, NeMo's default, it is the tanh form; ours is exact unless told otherwise."""
    gelu = {"activation": "gelu", "bias": True}
    assert read(classic(**gelu, bias_activation_fusion=...)).megatron == {"bias_activation_fusion": True}
    assert read(classic(**gelu, bias_activation_fusion=True)).megatron == {"bias_activation_fusion": True}
    assert read(classic(**gelu, bias_activation_fusion=False)).megatron == {}
    exact = written(GPT)
    assert exact["bias_activation_fusion"] is False and exact["target"] == CLASSIC_TARGET
    fused = dataclasses.replace(GPT, megatron={"bias_activation_fusion": True})
    assert is_classic(fused) and written(fused)["bias_activation_fusion"] is True
    for model in (GPT, fused):
        assert read(written(model)).megatron == model.megatron
    # As older files of ours are: they never said it, and were exact.
    older = {key: value for key, value in exact.items() if key != "bias_activation_fusion"}
    assert read(older).megatron == {}
    assert "bias_activation_fusion" not in written(LLAMA), "a fused SwiGLU computes what a plain one does"


def test_nemo_builds_the_table_of_learned_positions_that_is_stored() -> None:
    """It has encoder_seq_length rows with megatron-core, and had max_position_embeddings before."""
    assert written(GPT)["encoder_seq_length"] == 64 and written(LLAMA)["encoder_seq_length"] == 32
    learned = {"position_embedding_type": "learned_absolute", "encoder_seq_length": 32}
    assert read(classic(**learned)).max_position_embeddings == 32
    assert read(classic(**learned, mcore_gpt=False)).max_position_embeddings == 64


def test_both_descriptions_in_a_file_of_ours_must_agree() -> None:
    gemma = dataclasses.replace(
        LLAMA, family="gemma3", activation="geglu", qk_layernorm=True, window_size=8, window_pattern="SL"
    )
    config = written(gemma)
    assert config["target"] == OUR_TARGET and read(config).window_size == 8
    message = refusal({**config, "rotary_base": 500_000})
    assert message == "model_config.yaml: rotary_base=500000, but recipes.model says 10000; make them equal"
    assert "qk_clip_alpha=0.5 is not known here" in refusal({**config, "qk_clip_alpha": 0.5})


def test_the_note_about_how_documents_began(tiny_data: TinyData) -> None:
    tokenizer = load_tokenizer(tiny_data.tokenizer)
    assert note_for_nemo("bos", tokenizer) is None
    assert "add_BOS False" in str(note_for_nemo(None, tokenizer))
    note = str(note_for_nemo("eos", tokenizer))
    assert "</s> (id 2)" in note and "token ids that begin with 2" in note
    assert written(LLAMA, notes=note)["recipes"]["notes"] == note
