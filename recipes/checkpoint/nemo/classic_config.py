"""A ModelConfig to and from classic NeMo's model_config.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from recipes.checkpoint.nemo.classic_keys import (
    CARRIED,
    DATA_READ_BY_NEMO,
    HARMLESS,
    READ_BY_NEMO,
    SUPPORTED_VALUES,
    TARGETS,
    TOKENIZER,
)
from recipes.checkpoint.stored.description import (
    described_model,
    description_of,
    stored_megatron,
    typed_model,
)
from recipes.config.stored_options import stored_options
from recipes.console import shown
from recipes.data.samples.document_start import DocumentStart
from recipes.data.tokenizer import TextTokenizer
from recipes.data.tokenizer.file_names import HUGGING_FACE, SENTENCEPIECE
from recipes.errors import UserError
from recipes.families.family import family_of
from recipes.families.model_config import (
    ModelConfig,
    kv_channels,
    num_query_groups,
    padded_vocab_size,
    window_pattern,
)
from recipes.families.settings import COMMON_SETTINGS, NORMAL_INIT, ROTARY, WINDOWS
from recipes.families.stated_keys import StatedKeys

FILE = "model_config.yaml"
FORMAT_VERSION = 1
CLASSIC_TARGET = "nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel"
CLASSIC_VERSION = "2.0.0"
OUR_TARGET = "recipes.training.module.ParamGPT"
# What classic NeMo's configuration can express, and what only decides the initial weights.
CLASSIC_KEYS = COMMON_SETTINGS | ROTARY | NORMAL_INIT

NORMALIZATIONS = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
LARGEST_WINDOW = 2**31
# What a file of ours says beside the architecture.
OF_NO_ARITHMETIC = frozenset({"document_start", "family", "megatron", "notes", "step", "vocab_size"})
ACTIVATIONS = {"swiglu": "swiglu", "fast-swiglu": "swiglu", "gelu": "gelu"}
FUSED_GELU = "bias_activation_fusion"
"""NeMo and megatron-core compute a fused GELU by its tanh form, the plain one exactly."""


def is_classic(model: ModelConfig) -> bool:
    """Whether classic NeMo's MegatronGPTModel computes this architecture from its own keys.

    Of ``model.megatron`` it has the fusion of GELU alone; its window holds for all layers.
    """
    return (
        family_of(model).classic_nemo
        and not stored_options(model.megatron).keys() - {FUSED_GELU}
        and len(set(window_pattern(model))) == 1
        and all(
            getattr(model, setting.name) == setting.default
            for setting in dataclasses.fields(ModelConfig)
            if setting.name not in (CLASSIC_KEYS | WINDOWS) - {"qk_layernorm"}
        )
    )


def _architecture_keys(model: ModelConfig) -> dict[str, Any]:
    """The keys that describe the model, as far as classic NeMo has words for it."""
    keys = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": num_query_groups(model),
        "kv_channels": kv_channels(model),
        "max_position_embeddings": model.max_position_embeddings,
        "init_method_std": model.init_method_std,
        "use_scaled_init_method": model.use_scaled_init_method,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "normalization": model.normalization.lower(),
        "layernorm_epsilon": model.layernorm_epsilon,
        "bias": model.add_bias_linear,
        "activation": "fast-swiglu" if model.activation == "swiglu" else model.activation,
        "position_embedding_type": model.position_embedding_type,
        "rotary_percentage": model.rotary_percent,
        "rotary_base": model.rotary_base,
        "share_embeddings_and_output_weights": model.share_embeddings_and_output_weights,
    }
    if model.activation == "gelu":
        keys[FUSED_GELU] = model.megatron.get(FUSED_GELU, False)
    return keys


def _window_keys(model: ModelConfig) -> dict[str, Any]:
    """megatron-core counts the tokens to the left of the query, ours counts the query too."""
    window = window_pattern(model)[0]
    return {} if window is None else {"window_size": [window - 1, 0]}


def to_nemo_config(
    model: ModelConfig,
    *,
    tokenizer_file: str,
    tokenizer_library: str = SENTENCEPIECE,
    seq_length: int,
    micro_batch_size: int,
    global_batch_size: int,
    precision: str | int,
    seed: int,
    document_start: str | None,
    notes: str | None = None,
    sentencepiece_legacy: bool = False,
    carried: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The ``model:`` section as classic NeMo writes it for the Llama line.

    What classic NeMo cannot compute has this project's target instead, and its whole description under
    ``recipes.model``, so that NeMo refuses the file rather than run another model.

    MegatronGPTModel builds a table of ``override_vocab_size`` rows under every layout; the padded size that
    it logs is its own and depends on tensor parallelism. The ``recipes`` key is ours and ignored there; its
    ``document_start`` (bos, eos) is the token that stood before every document in training, so that prompts
    can be given the same start.

    Args:
        notes: for people who run the file with NeMo.
        sentencepiece_legacy: whether NeMo's tokenizer takes spaces off both ends of what it decodes.
        carried: options of a file that this one is made from, see :func:`carried_options`.
    """
    classic = is_classic(model)
    learned = model.position_embedding_type == "learned_absolute"
    training = {
        **READ_BY_NEMO,
        "micro_batch_size": micro_batch_size,
        "global_batch_size": global_batch_size,
        "rampup_batch_size": None,
        "seed": seed,
        "data": {**DATA_READ_BY_NEMO, "seq_length": seq_length},
    }
    return {
        "mcore_gpt": True,
        **training,
        **carried,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "virtual_pipeline_model_parallel_size": None,
        "expert_model_parallel_size": 1,
        "sequence_parallel": False,
        # NeMo's table of learned positions has so many rows.
        "encoder_seq_length": model.max_position_embeddings if learned else seq_length,
        **_architecture_keys(model),
        **(_window_keys(model) if classic else {}),
        "ffn_dropout": 0.0,
        "apply_query_key_layer_scaling": False,
        "layernorm_zero_centered_gamma": False,
        "make_vocab_size_divisible_by": model.make_vocab_size_divisible_by,
        "override_vocab_size": padded_vocab_size(model),
        "pre_process": True,
        "post_process": True,
        "transformer_block_type": "pre_ln",
        "normalize_attention_scores": True,
        "attention_type": "multihead",
        "seq_len_interpolation_factor": None,
        "tokenizer": _tokenizer_section(tokenizer_library, tokenizer_file, sentencepiece_legacy),
        "transformer_engine": True,
        "megatron_amp_O2": precision == "bf16",
        "dist_ckpt_format": "torch_dist",
        "precision": precision,
        "recipes": {
            "family": model.family,
            "format_version": FORMAT_VERSION,
            "vocab_size": model.vocab_size,
            "document_start": document_start,
            "megatron": stored_options(model.megatron),
            **({} if notes is None else {"notes": notes}),
            **({} if classic else {"model": description_of(model)}),
        },
        "target": CLASSIC_TARGET if classic else OUR_TARGET,
        "nemo_version": CLASSIC_VERSION,
    }


def carried_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model_config.yaml what a file made from it says too: how NeMo computes and trains."""
    needed = {key for key, value in READ_BY_NEMO.items() if value is not None}
    return {
        key: value
        for key, value in config.items()
        if key in CARRIED and not (value is None and key in needed)
    }


def sentencepiece_legacy(config: Mapping[str, Any]) -> bool:
    """What NeMo makes of a model_config.yaml's tokenizer: without a word it is the older form."""
    section = config.get("tokenizer")
    return not isinstance(section, dict) or section.get("sentencepiece_legacy", True) is True


def note_for_nemo(document_start: DocumentStart, tokenizer: TextTokenizer) -> str | None:
    """What to tell people who prompt the model with NeMo; None where NeMo's default start is right."""
    if document_start == "bos":
        return None
    if document_start is None:
        return "Documents began with no token in training: prompt with add_BOS False."
    name, token = tokenizer.id_to_piece(tokenizer.eos_id), tokenizer.eos_id
    return (
        f"Documents began with {name} (id {token}) in training, and NeMo's add_BOS puts another token there. "
        f"Prompt with token ids that begin with {token}: model.generate((ids, lengths), ...), both tensors."
    )


def _tokenizer_section(library: str, name: str, legacy: bool) -> dict[str, Any]:
    """NeMo reads a SentencePiece model from ``model`` and a Hugging Face directory from ``type``."""
    sentencepiece = library == SENTENCEPIECE
    own = {"sentencepiece_legacy": legacy} if sentencepiece else {"use_fast": True}
    return {
        "library": library,
        "type": None if sentencepiece else f"nemo:{name}",
        "model": f"nemo:{name}" if sentencepiece else None,
        "vocab_file": None,
        "merge_file": None,
        "delimiter": None,
        **own,
    }


def stored_tokenizer_name(section: dict[str, Any]) -> str:
    """The name of the tokenizer's file or directory in an archive, from the configuration's ``tokenizer``."""
    value = section.get("type") if section.get("library") == HUGGING_FACE else section.get("model")
    return str(value or "").removeprefix("nemo:")


def from_nemo_config(config: dict[str, Any], *, tokenizer_vocab_size: int, stored_rows: int) -> ModelConfig:
    """Reads a classic configuration or this project's; ``stored_rows``: of the stored embedding table.

    Raises:
        UserError: a key is missing or not known here, or has a value that no family here computes.
    """
    stated = StatedKeys(config)
    section = stated.get("recipes") or {}
    if not isinstance(section, dict):
        raise UserError("model_config.yaml: recipes is not a mapping")
    ours = StatedKeys(section)
    if ours.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        version = shown(ours["format_version"])
        raise UserError(
            f"model_config.yaml: recipes.format_version={version}: this code reads version {FORMAT_VERSION}"
        )
    if "model" in ours:
        model = described_model(ours["model"], stored_rows)
        _refuse_contradictions(stated, model)
    else:
        model = _classic_model(stated, ours, tokenizer_vocab_size, stored_rows)
    tokenizer = stated.get("tokenizer")
    if isinstance(tokenizer, dict):
        StatedKeys(tokenizer).refuse_unread(f"{FILE}: tokenizer", TOKENIZER)
    ours.refuse_unread(f"{FILE}: recipes", OF_NO_ARITHMETIC)
    stated.refuse_unread(FILE, HARMLESS | SUPPORTED_VALUES.keys())
    return model


def _refuse_contradictions(stated: StatedKeys, model: ModelConfig) -> None:
    """A file of ours describes its model twice, and one of the two is read: they must say the same."""
    for key, value in _architecture_keys(model).items():
        if stated.get(key, value) != value:
            raise UserError(
                f"{FILE}: {key}={shown(stated[key])}, but recipes.model says {shown(value)}; make them equal"
            )


def _classic_model(stated: StatedKeys, ours: StatedKeys, pieces: int, stored_rows: int) -> ModelConfig:
    """What NVIDIA's own keys describe."""
    _refuse_other_models(stated)
    try:
        return typed_model(
            family=ours.get("family", ModelConfig.family),
            num_layers=stated["num_layers"],
            hidden_size=stated["hidden_size"],
            ffn_hidden_size=stated["ffn_hidden_size"],
            num_attention_heads=stated["num_attention_heads"],
            num_query_groups=stated.get("num_query_groups"),
            kv_channels=stated.get("kv_channels"),
            vocab_size=ours.get("vocab_size", pieces),
            # The stored table is what it is: its height is the multiple.
            make_vocab_size_divisible_by=stored_rows,
            max_position_embeddings=_positions(stated),
            normalization=known_value(
                "normalization", stated.get("normalization", "layernorm"), NORMALIZATIONS
            ),
            layernorm_epsilon=stated.get("layernorm_epsilon", 1e-5),
            activation=known_value("activation", stated.get("activation", "gelu"), ACTIVATIONS),
            add_bias_linear=stated.get("bias", True),
            position_embedding_type=stated.get("position_embedding_type", "learned_absolute"),
            rotary_base=stated.get("rotary_base", 10000),
            rotary_percent=stated.get("rotary_percentage", 1.0),
            share_embeddings_and_output_weights=stated.get("share_embeddings_and_output_weights", True),
            init_method_std=stated.get("init_method_std", 0.02),
            use_scaled_init_method=stated.get("use_scaled_init_method", True),
            hidden_dropout=stated.get("hidden_dropout", 0.1),
            attention_dropout=stated.get("attention_dropout", 0.1),
            megatron={
                **_fused_gelu(stated),
                **stored_megatron(ours.get("megatron"), "recipes.megatron"),
            },
            **window_settings(FILE, stated.get("window_size")),
        )
    except KeyError as error:
        raise UserError(f"{FILE}: {error.args[0]} is missing") from None


def _refuse_other_models(stated: StatedKeys) -> None:
    """
    Raises:
        UserError: the file says something that makes another model of it than our families compute.
    """
    target = str(stated.get("target") or CLASSIC_TARGET).rsplit(".", 1)[-1]
    if target not in TARGETS:
        raise UserError(
            f"{FILE}: target={shown(stated['target'])} is not known to compute what MegatronGPTModel does; "
            f"if it does, set it to {CLASSIC_TARGET}"
        )
    for key, supported in SUPPORTED_VALUES.items():
        if key in stated and stated[key] not in supported:
            value = shown(stated[key])
            raise UserError(f"{FILE}: {key}={value} is not supported (supported: {supported})")
    if not stated.get("num_moe_experts"):  # Nothing asks for the other settings of experts then.
        for key in stated:
            if str(key).startswith("moe_"):
                stated.get(key)
    peft = stated.get("peft")
    if isinstance(peft, dict) and peft.get("peft_scheme") not in (None, "none"):
        raise UserError(f"{FILE}: peft.peft_scheme={shown(peft['peft_scheme'])}: merge the adapters first")


def _positions(stated: StatedKeys) -> Any:
    """With megatron-core NeMo's table of learned positions has encoder_seq_length rows; ours says both."""
    own = "recipes" in stated or not stated.get("mcore_gpt")
    learned = stated.get("position_embedding_type", "learned_absolute") == "learned_absolute"
    return stated["max_position_embeddings" if own or not learned else "encoder_seq_length"]


def _fused_gelu(stated: StatedKeys) -> dict[str, bool]:
    """NeMo fuses a GELU and its bias unless told otherwise; files of ours never left it to the default."""
    gelu = stated.get("activation", "gelu") == "gelu" and stated.get("bias", True) is True
    fused = gelu and stated.get(FUSED_GELU, "recipes" not in stated)
    return {FUSED_GELU: True} if fused is True else {}


def window_settings(label: str, window: Any) -> dict[str, Any]:
    """Our settings for megatron-core's ``window_size`` of all layers: [tokens to the left, to the right].

    -1 is no end on that side. A causal model never looks to the right.

    Raises:
        UserError: it is no causal window.
    """
    if window is None or window in ([-1, -1], [-1, 0]):
        return {}
    if (
        isinstance(window, list)
        and len(window) == 2
        and all(type(side) is int for side in window)
        and 0 <= window[0] < LARGEST_WINDOW
        and window[1] == 0
    ):
        return {"window_size": window[0] + 1, "window_pattern": "S"}
    raise UserError(
        f"{label}: window_size={shown(window)} is not supported: a window is [tokens to the left, 0], all "
        "layers alike"
    )


def known_value(key: str, value: Any, table: dict[str, str]) -> str:
    if not isinstance(value, str) or value not in table:
        raise UserError(
            f"model_config.yaml: {key}={shown(value)} is not supported (supported: {', '.join(table)})"
        )
    return table[value]
