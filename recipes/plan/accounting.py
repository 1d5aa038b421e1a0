"""Parameters, FLOPs and key-value cache of a described model, summed over the table of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recipes.config.timeline import Timeline
from recipes.counts import counted
from recipes.families.family import layer_windows, tensor_table
from recipes.families.model_config import ModelConfig
from recipes.families.tensors import EXPERTS, HEAD, POSITIONS, VECTORS, WORDS, TensorSpec, parts_in_order


@dataclass(frozen=True)
class ParameterCounts:
    total: int
    """Every trainable number, padded vocabulary rows not counted."""
    non_embedding: int
    """Without the lookup tables (words, positions, value embeddings) and the output head."""
    active_per_token: int
    """Without the routed experts that a token is not sent to."""


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Parameters of the whole model. Param-1 2.9B: 2,860,648,448."""
    table = [spec for spec in tensor_table(model) if spec.trained]
    total = _numbers(table)
    return ParameterCounts(
        total=total,
        non_embedding=total - _numbers(spec for spec in table if spec.table),
        active_per_token=_numbers_per_token(table, model),
    )


def parameters_per_part(model: ModelConfig) -> dict[str, int]:
    """Parameters of each kind of tensor, padded vocabulary rows not counted; together the whole model."""
    table = [spec for spec in tensor_table(model) if spec.trained]
    counts = {}
    for part in parts_in_order(spec.part for spec in table):
        specs = [spec for spec in table if spec.part == part]
        layers = len({spec.layer for spec in specs})
        name = f"{part} ({counted(layers, 'layer')})"
        if part == EXPERTS:
            name = f"{part} ({layers} layers of {model.num_moe_experts})"
        counts[part if part in (WORDS, POSITIONS, VECTORS, HEAD) else name] = _numbers(specs)
    return counts


def layer_parameters(model: ModelConfig) -> list[int]:
    """Parameters of each layer, including any value embedding that it adds."""
    counts = [0] * model.num_layers
    for spec in tensor_table(model):
        if spec.layer is not None and spec.trained:
            counts[spec.layer] += spec.numbers()
    return counts


def lookups_of_layers(model: ModelConfig) -> list[list[str]]:
    """For each layer the names, in the singular, of its own tables by token: value embedding."""
    lookups: list[list[str]] = [[] for _ in range(model.num_layers)]
    for spec in tensor_table(model):
        if spec.layer is not None and spec.table:
            lookups[spec.layer].append(spec.part.removesuffix("s"))
    return lookups


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Training FLOPs (forward and backward) per token.

    6 x parameters in matrix products (the output head but not the input lookup, routed experts x top-k /
    experts) + 12 x attention width x context per layer, where context is the layer's window or the full
    context, not halved for causality: appendix B of PaLM (arXiv 2204.02311).
    """
    table = tensor_table(model)
    products = _numbers_per_token((spec for spec in table if spec.multiplied), model)
    windows = layer_windows(model)
    attended = sum(
        spec.queries * min(windows[spec.layer] or seq_length, seq_length)
        for spec in table
        if spec.layer is not None
    )
    return 6 * products + 12 * attended


def flops_by_length(model: ModelConfig, timeline: Timeline) -> dict[int, int]:
    """Training FLOPs per token at every sequence length of a run."""
    return {each.seq_length: flops_per_token(model, each.seq_length) for each in timeline.segments}


def flops_until(steps: int, timeline: Timeline, per_token: Mapping[int, int]) -> int:
    """Training FLOPs of a run's first ``steps`` steps; ``per_token`` by sequence length."""
    parts = timeline.before(steps)
    ends = [*(each.first_token for each in parts[1:]), timeline.tokens(steps)]
    return sum(
        (end - each.first_token) * per_token[each.seq_length] for each, end in zip(parts, ends, strict=True)
    )


def kv_bytes_per_token(model: ModelConfig, bytes_per_number: int = 2) -> int:
    """Bytes of one token's keys and values in all layers."""
    return bytes_per_number * sum(spec.cached for spec in tensor_table(model))


def kv_cache_bytes(model: ModelConfig, context: int, bytes_per_number: int = 2) -> int:
    """Bytes of keys and values kept to continue a text of ``context`` tokens, at most a window per layer."""
    windows = layer_windows(model)
    return bytes_per_number * sum(
        spec.cached * min(windows[spec.layer] or context, context)
        for spec in tensor_table(model)
        if spec.layer is not None
    )


def _numbers(specs: Iterable[TensorSpec]) -> int:
    return sum(spec.numbers() for spec in specs)


def _numbers_per_token(specs: Iterable[TensorSpec], model: ModelConfig) -> int:
    """Numbers that one token uses: of the routed experts, only those that it is sent to."""
    routed = others = 0
    for spec in specs:
        if spec.routed:
            routed += spec.numbers()
        else:
            others += spec.numbers()
    return others + routed * model.moe_router_topk // (model.num_moe_experts or 1)
