"""Whether a configuration and the stored tensors describe the same model, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recipes.checkpoint.huggingface.rules import Rule
from recipes.checkpoint.huggingface.tables import rules_of
from recipes.checkpoint.sources.lazy import LazyTensor
from recipes.checkpoint.sources.names import LAYER
from recipes.config.schema import ModelConfig
from recipes.errors import UserError
from recipes.model.accounting import kv_channels, num_query_groups
from recipes.model.layers import moe_layers

EMBEDDING = "embedding.word_embeddings.weight"
MOST_LAYERS = 2_000
MOST_GROUPS = 200_000  # Over all layers.


def embedding_shape(label: str, tensors: Mapping[str, LazyTensor]) -> tuple[int, int]:
    """Rows and width of the stored embedding table.

    Raises:
        UserError: there is none.
    """
    if EMBEDDING not in tensors:
        raise UserError(f"{label}: its weights hold no {EMBEDDING}, so this is no GPT model of NeMo's")
    shape = tensors[EMBEDDING].shape
    if len(shape) != 2:
        raise UserError(f"{label}: its {EMBEDDING} is no table")
    return shape[0], shape[1]


def check_fits(model: ModelConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """The stored tensors are the model's, all of them and no other: what is built can be filled.

    Raises:
        UserError: names the setting, its value and the tensor.
    """
    rows, width = tensors[EMBEDDING].shape
    if width != model.hidden_size:
        raise UserError(f"hidden_size={model.hidden_size}, but the stored embedding is {rows} x {width}")
    layers = {int(match[1]) for name in tensors if (match := LAYER.match(name))}
    if len(layers) != model.num_layers or layers != set(range(len(layers))):
        raise UserError(f"num_layers={model.num_layers}, but {len(layers)} layers are stored")
    for name, tensor in tensors.items():
        for ending, (setting, value, axis) in _widths(model).items():
            if name.endswith(ending) and (len(tensor.shape) <= axis or tensor.shape[axis] != value):
                raise UserError(f"{setting}={value}, but {name} is {tensor.shape}")
    experts = sum(1 for name in tensors if ".mlp.experts.linear_fc2.weight" in name)
    with_experts = sum(1 for name in tensors if name.endswith(".mlp.router.weight"))
    if experts != with_experts * (model.num_moe_experts or 0):
        raise UserError(
            f"num_moe_experts={model.num_moe_experts}, but {experts} are stored in {with_experts} layers"
        )
    # Before anything is made for every layer, group and expert that the configuration asks for.
    if model.num_layers > MOST_LAYERS:
        raise UserError(f"num_layers={model.num_layers} is more than any model has")
    if model.num_layers * num_query_groups(model) > MOST_GROUPS:
        raise UserError(f"num_query_groups={num_query_groups(model)} is more than any model has")
    if sum(moe_layers(model)) * (model.num_moe_experts or 0) > len(tensors):
        raise UserError(f"num_moe_experts={model.num_moe_experts}, but {len(tensors)} tensors are stored")
    check_complete(tensors, rules_of(model))


def check_complete(tensors: Mapping[str, LazyTensor], rules: Iterable[Rule]) -> None:
    """Every stored tensor has its rule and its shape, and every rule its tensor.

    Raises:
        UserError: naming the first that is left over, missing or of another shape.
    """
    wanted = {rule.ours: rule.shape for rule in rules}
    for name in sorted(wanted.keys() - tensors.keys()):
        raise UserError(f"{name} is missing, which the model's description asks for")
    for name in sorted(tensors.keys() - wanted.keys()):
        raise UserError(f"{name} is left over: the model's description has no place for it")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"{name} has the shape {tensors[name].shape}, its description asks for {shape}")


def _widths(model: ModelConfig) -> dict[str, tuple[str, int | None, int]]:
    """Endings of names -> the setting that an axis of such a tensor shows."""
    heads = model.num_attention_heads * kv_channels(model)
    return {
        ".mlp.linear_fc2.weight": ("ffn_hidden_size", model.ffn_hidden_size, 1),
        ".self_attention.linear_proj.weight": ("num_attention_heads x kv_channels", heads, 1),
        ".shared_experts.linear_fc2.weight": (
            "moe_shared_expert_intermediate_size",
            model.moe_shared_expert_intermediate_size,
            1,
        ),
        "embedding.position_embeddings.weight": ("max_position_embeddings", model.max_position_embeddings, 0),
    }
