"""A ModelConfig to and from a Hugging Face config.json."""

from __future__ import annotations

from typing import Any

from recipes.families.family import Architecture, Family, find_family, known_families, layout_of
from recipes.families.hugging_face import MOST_LAYERS, dropout, refuse_unless
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups
from recipes.families.stated_keys import key_names
from recipes.families.values import Values

FILE = "config.json"
# Keys of config.json that families here compute in one way only -> the values that they may have.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "use_bidirectional_attention": (False,),
    "n_group": (1,),
    "topk_group": (1,),
    "decoder_sparse_step": (1,),
    "pretraining_tp": (1,),
    "quantization_config": (),
}
# What changes nothing about the logits of a text: who wrote the file and how weights are stored, ids that the
# tokenizer decides, settings of generation that transformers once kept here, and what only training reads.
HARMLESS = key_names(
    """
    _name_or_path architectures auto_map dtype name_or_path torch_dtype transformers_version
    unsloth_fixed unsloth_version _attn_implementation _attn_implementation_autoset attn_implementation
    cache_implementation chunk_size_feed_forward gradient_checkpointing is_decoder output_attentions
    output_hidden_states output_router_logits return_dict tf_legacy_loss torchscript use_bfloat16
    use_cache bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id tokenizer_class
    unk_token_id finetuning_task id2label label2id num_labels prefix problem_type task_specific_params
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length max_new_tokens min_length no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values
    repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    router_aux_loss_coef router_jitter_noise router_z_loss_coef
    """
)


def architecture_of(model: ModelConfig, layout: str | None = None) -> Architecture:
    """The class that computes exactly this model.

    Args:
        layout: see :func:`recipes.families.family.layout_of`.

    Raises:
        UserError: there is none; the message names the setting that no class has.
    """
    found = layout_of(model, layout)
    refuse_unless(not model.megatron, model, "megatron")
    refuse_unless(model.moe_expert_capacity_factor is None, model, "moe_expert_capacity_factor")
    return found.architecture(model)


def to_hf_config(
    model: ModelConfig,
    *,
    dtype: str,
    bos_id: int | None,
    eos_id: int | None,
    pad_id: int | None,
    layout: str | None = None,
) -> dict[str, Any]:
    """config.json of the class that :func:`architecture_of` names.

    ``dtype`` is torch's name for the type of most weights, such as ``bfloat16``; the ids are those of
    :func:`recipes.checkpoint.huggingface.tokenizer.special_ids`.

    Raises:
        UserError: no class computes the model.
    """
    architecture = architecture_of(model, layout)
    sizes = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": num_query_groups(model),
        "head_dim": kv_channels(model),
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # What readers before transformers 4.56 look for.
        "use_cache": architecture.remote_code is None,
    }
    return sizes | layout_of(model, layout).to_hugging_face(model)


def to_generation_config(
    *, bos_id: int | None, eos_id: int | None, pad_id: int | None, use_cache: bool = True
) -> dict[str, Any]:
    """generation_config.json. Without a padding token, batches are padded with the end-of-document token."""
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    ids["pad_token_id"] = eos_id if pad_id is None else pad_id
    return {key: value for key, value in ids.items() if value is not None} | {"use_cache": use_cache}


def from_hf_config(config: dict[str, Any]) -> ModelConfig:
    """The description of a Hugging Face model, from its config.json alone.

    Raises:
        UserError: another model type, a value of another type or size than it can have, a setting that no
            family here computes, or one that is not known here.
    """
    values = Values(config, FILE)
    readers = {kind: (family, kind) for family in _families() for kind in family.from_hugging_face}
    family, kind = readers[values.choice("model_type", tuple(readers))]
    for key, allowed in REQUIRED.items():
        value = values.content.get(key) if key not in family.config_keys else None
        # Not 1 == True: a flag must be a flag.
        if value is not None and not any(value == known and type(value) is type(known) for known in allowed):
            values.refuse(key, "no family here computes that")
    fields = {**_sizes(values), **family.from_hugging_face[kind](values), "family": family.name}
    values.refuse_unread(HARMLESS)
    return ModelConfig(**fields)


def _families() -> list[Family]:
    return [find_family(name) for name in known_families()]


def _sizes(values: Values) -> dict[str, Any]:
    heads = values.count("num_attention_heads")
    groups = values.count("num_key_value_heads", heads)
    if heads % groups:
        values.refuse("num_key_value_heads", f"must divide num_attention_heads, {heads}")
    hidden = values.count("hidden_size")
    return {
        "num_layers": values.count("num_hidden_layers", most=MOST_LAYERS),
        "hidden_size": hidden,
        "ffn_hidden_size": values.count("intermediate_size"),
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "kv_channels": values.count("head_dim", max(1, hidden // heads)),
        "vocab_size": values.count("vocab_size"),
        "max_position_embeddings": values.count("max_position_embeddings"),
        "init_method_std": values.number("initializer_range", 0.02),
        "attention_dropout": dropout(values, "attention_dropout"),
    }
