"""Whether a configuration and the stored tensors describe the same model, before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.names import LAYER
from recipes.errors import UserError
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig, moe_layers, num_query_groups
from recipes.families.tensors import WORD_EMBEDDINGS, TensorSpec

MOST_LAYERS = 2_000
MOST_GROUPS = 200_000  # Over all layers.


def embedding_shape(label: str, tensors: Mapping[str, LazyTensor]) -> tuple[int, int]:
    """Rows and width of the stored embedding table.

    Raises:
        UserError: there is none.
    """
    if WORD_EMBEDDINGS not in tensors:
        raise UserError(
            f"{label}: its weights hold no {WORD_EMBEDDINGS}, so this is not a GPT model of NeMo's"
        )
    shape = tensors[WORD_EMBEDDINGS].shape
    if len(shape) != 2:
        raise UserError(f"{label}: its {WORD_EMBEDDINGS} is not a table")
    return shape[0], shape[1]


def check_fits(model: ModelConfig, tensors: Mapping[str, LazyTensor]) -> None:
    """Checks that the stored tensors are exactly the model's.

    Raises:
        UserError: names the setting, its value and the tensor.
    """
    rows, width = tensors[WORD_EMBEDDINGS].shape
    if width != model.hidden_size:
        raise UserError(f"hidden_size={model.hidden_size}, but the stored embedding is {rows} x {width}")
    layers = {int(match[1]) for name in tensors if (match := LAYER.match(name))}
    if len(layers) != model.num_layers or layers != set(range(len(layers))):
        raise UserError(f"num_layers={model.num_layers}, but {len(layers)} layers are stored")
    experts = sum(1 for name in tensors if ".mlp.experts.linear_fc2.weight" in name)
    with_experts = sum(1 for name in tensors if name.endswith(".mlp.router.weight"))
    if experts != with_experts * (model.num_moe_experts or 0):
        raise UserError(
            f"num_moe_experts={model.num_moe_experts}, but {experts} are stored in {with_experts} layers"
        )
    # Before anything is built for every layer, group and expert that the configuration asks for.
    if model.num_layers > MOST_LAYERS:
        raise UserError(f"num_layers={model.num_layers} is more than any model has")
    if model.num_layers * num_query_groups(model) > MOST_GROUPS:
        raise UserError(f"num_query_groups={num_query_groups(model)} is more than any model has")
    if sum(moe_layers(model)) * (model.num_moe_experts or 0) > len(tensors):
        raise UserError(f"num_moe_experts={model.num_moe_experts}, but {len(tensors)} tensors are stored")
    check_complete(tensors, tensor_table(model))


def check_complete(tensors: Mapping[str, LazyTensor], table: Iterable[TensorSpec]) -> None:
    """Checks that tensors and specs match one to one, in name and shape.

    Raises:
        UserError: naming the first that is left over, missing or of another shape.
    """
    wanted = {spec.name: spec for spec in table}
    for name in sorted(wanted.keys() - tensors.keys()):
        raise UserError(f"{name} is missing, which the model's description asks for")
    for name in sorted(tensors.keys() - wanted.keys()):
        raise UserError(f"{name} is left over: the model's description has no place for it")
    others = [spec for spec in wanted.values() if tuple(tensors[spec.name].shape) != spec.shape]
    for spec in others:  # First those that tell which setting is wrong.
        stored = tuple(tensors[spec.name].shape)
        for setting, size, found in zip(spec.axes, spec.shape, stored, strict=False):
            if setting and size != found:
                raise UserError(f"{setting}={size}, but {spec.name} is {stored}")
    for spec in others:
        stored = tuple(tensors[spec.name].shape)
        raise UserError(f"{spec.name} has the shape {stored}, its description asks for {spec.shape}")
