"""nano_hindi: the nanochat line of early 2026 (github.com/karpathy/nanochat), as its card describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.checks import refuse
from recipes.families.blocks import Table, attention, mlp, whole_model
from recipes.families.family import Architecture, Family
from recipes.families.hugging_face import (
    auto_map,
    layer_count,
    remote_code,
    rms_norm,
    rms_norm_keys,
    rotary_base,
    shortest_period,
)
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups, window_pattern
from recipes.families.settings import WINDOWS
from recipes.families.tensors import same, vocabulary
from recipes.families.values import Values

VALUE_GATE_CHANNELS = 32
"""Value embeddings pass through a gate that reads this many of the first channels."""
VALUE_EMBEDDINGS, VALUE_GATES = "value embeddings", "value gates"
NANO_HINDI = remote_code(
    "NanoHindi", "nano_hindi", Path(__file__).parent / "remote_code" / "modeling_nano_hindi.py"
)


def layer_windows(model: ModelConfig) -> list[int | None]:
    """As the pattern says, except that the last layer always has full attention."""
    return [*window_pattern(model)[:-1], None]


def value_embedding_layers(model: ModelConfig) -> list[bool]:
    """For each layer, whether it adds a value embedding: every other layer does, including the last."""
    return [layer % 2 == (model.num_layers - 1) % 2 for layer in range(model.num_layers)]


def check(model: ModelConfig) -> None:
    """
    Raises:
        UserError: fewer channels than the gates of value embeddings read.
    """
    if model.hidden_size < VALUE_GATE_CHANNELS:
        fix = f"value gates read {VALUE_GATE_CHANNELS} channels; choose at least as many"
        refuse("model.hidden_size", model.hidden_size, fix)


def tensors(model: ModelConfig) -> Table:
    """Every tensor, in layer order. The norms have no parameters."""
    return whole_model(model, _layer, final_norm=[])


def _layer(model: ModelConfig, layer: int) -> Table:
    # Near 1 bfloat16 has steps of 1/128.
    table = [same(name, name, (1,), wide=True) for name in ("resid_lambda", "x0_lambda")]
    table += attention(model)
    if value_embedding_layers(model)[layer]:
        groups = num_query_groups(model)
        embedding, gate = (f"value_{part}.weight" for part in ("embedding", "gate"))
        table.append(
            vocabulary(
                f"self_attention.{embedding}",
                f"self_attn.{embedding}",
                groups * kv_channels(model),
                model,
                VALUE_EMBEDDINGS,
                multiplied=False,
            )
        )
        table.append(
            same(
                f"self_attention.{gate}",
                f"self_attn.{gate}",
                (groups, VALUE_GATE_CHANNELS),
                VALUE_GATES,
                multiplied=True,
                split=True,
            )
        )
    return table + mlp(model)


def architecture(model: ModelConfig) -> Architecture:
    """transformers has no class for it."""
    return NANO_HINDI


def to_hugging_face(model: ModelConfig) -> dict[str, Any]:
    """Keys of config.json besides those that every class has."""
    values = value_embedding_layers(model)
    return (
        auto_map(NANO_HINDI)
        | rms_norm_keys(model)
        | {
            "rope_theta": float(model.rotary_base),
            "layer_windows": layer_windows(model),
            "value_embedding_layers": [layer for layer, has_values in enumerate(values) if has_values],
            "logit_soft_cap": model.final_logit_softcapping,
        }
    )


def _from_nano_hindi(values: Values) -> dict[str, Any]:
    layers = layer_count(values)
    fields: dict[str, Any] = {
        **rms_norm(values),
        "activation": "squared_relu",
        "qk_layernorm": True,
        "rotary_base": rotary_base(values, "rope_theta", 1e4),
        "final_logit_softcapping": values.number("logit_soft_cap") if values.has("logit_soft_cap") else None,
        "init_method_std": 0.02,
    }
    windows = _windows(values, layers)
    if windows[-1] is not None:
        values.refuse("layer_windows", "the last layer must be full")
    if values.numbers_of_layers("value_embedding_layers", layers) != list(range((layers - 1) % 2, layers, 2)):
        values.refuse("value_embedding_layers", "must be every other layer, the last included")
    sizes = {size for size in windows if size is not None}
    if sizes:
        # The last layer has full attention in any case, so the shortest pattern may have S there.
        letters = "".join("L" if size is None else "S" for size in windows)
        patterns = (shortest_period(letters), shortest_period(letters[:-1] or letters))
        fields |= {"window_size": sizes.pop(), "window_pattern": min(patterns, key=len)}
    return fields


def _windows(values: Values, layers: int) -> list[int | None]:
    windows = values.content.get("layer_windows")
    if (
        not isinstance(windows, list)
        or len(windows) != layers
        or not all(size is None or (type(size) is int and size > 0) for size in windows)
        or len(set(windows) - {None}) > 1
    ):
        values.refuse("layer_windows", f"must be null or one window size for each of the {layers} layers")
    return windows


FAMILY = Family(
    name="nano_hindi",
    layers="recipes.model.families.nano_hindi",
    tensors=tensors,
    settings=frozenset({"rotary_base", "final_logit_softcapping"}) | WINDOWS,
    choices={
        "activation": ("squared_relu",),
        "normalization": ("RMSNorm",),
        "add_bias_linear": (False,),
        "position_embedding_type": ("rope",),
        "qk_layernorm": (True,),
        "share_embeddings_and_output_weights": (False,),
        "hidden_dropout": (0.0,),
        "attention_dropout": (0.0,),
    },
    check=check,
    refused_layouts={
        "pipeline_model_parallel_size": "every layer needs the embedding and the token ids, "
        "which a later stage does not have",
    },
    refused_megatron_fields={
        "distribute_saved_activations": "cuts up the embedding that every layer reads",
        "fp32_residual_connection": "norms without gain would hand float32 to bfloat16 matrices",
    },
    # Layers differ in their parameters, so each has its own names in checkpoints.
    megatron_fields={"hetereogenous_dist_checkpoint": True},
    layer_windows=layer_windows,
    architecture=architecture,
    to_hugging_face=to_hugging_face,
    from_hugging_face={"nano_hindi": _from_nano_hindi},
)
