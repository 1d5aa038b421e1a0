"""What the ranks of a run send each other in a step, over which links, and how much of it the step waits for.

As megatron-core does it: with the distributed optimizer gradients are reduce-scattered in fp32 and weights
gathered in bf16, in buckets; a stage's last backward and first forward pass hide them if parallel.overlap_*
say so. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.config.cluster_schema import ClusterConfig, HardwareConfig
from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig, kv_channels, moe_layers, num_query_groups
from recipes.families.tensors import TensorSpec
from recipes.plan.links import Group, all_to_all_seconds, group_of, ring_seconds, send_seconds
from recipes.plan.stages import is_tied_table, state_numbers

GRADIENT_BYTES, WEIGHT_BYTES = 4, 2


@dataclass(frozen=True)
class Traffic:
    """One kind of communication of one rank."""

    name: str
    operation: str
    group: Group
    bytes: float
    """That the rank sends in a step."""
    seconds: float
    """That it takes in a step, hidden or not."""
    exposed: float
    """Seconds by which the step is longer."""


def layout_groups(parallel: ParallelConfig, data_parallel_size: int, gpus_per_node: int) -> dict[str, Group]:
    """The groups of a rank, by the names that the plan gives them."""
    tp, cp = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    ep, pp = parallel.expert_model_parallel_size, parallel.pipeline_model_parallel_size
    etp = parallel.expert_tensor_parallel_size or tp
    shards = data_parallel_size * cp
    sizes = {
        "tensor": (tp, 1),
        "context": (cp, tp),
        "data": (shards, tp),  # Context-parallel ranks share the optimizer's state, too.
        "expert": (ep, etp),
        "expert data": (max(1, shards * tp // (etp * ep)), etp * ep),
        "pipeline": (pp, tp * shards),
    }
    return {name: group_of(size, stride, gpus_per_node) for name, (size, stride) in sizes.items()}


def micro_batch_traffic(
    model: ModelConfig,
    parallel: ParallelConfig,
    cluster: ClusterConfig,
    layers: range,
    *,
    tokens: int,
    data_parallel_size: int,
) -> list[Traffic]:
    """Tensor, context and expert parallelism: of one micro-batch and the layers of a stage.

    Args:
        layers: numbers of the stage's layers.
        tokens: of a micro-batch on a rank, before sequence parallelism splits them.
    """
    groups = layout_groups(parallel, data_parallel_size, cluster.gpus_per_node)
    hardware, found = cluster.hardware, []
    stream = WEIGHT_BYTES * tokens * model.hidden_size
    again = 1 if parallel.recompute_granularity == "full" else 0
    if (tensor := groups["tensor"]).size > 1:
        # A layer has two pairs of a reduce-scatter and an all-gather (without sequence parallelism:
        # all-reduces) in the forward pass, as many in the backward pass. There the two that feed
        # column-parallel products are hidden behind these, as is the second gathering of the products'
        # inputs, which sequence parallelism needs.
        once = ring_seconds(tensor, stream, hardware)
        exposed, hidden = 4 * (1 + again) + 2, 2 + (2 if parallel.sequence_parallel else 0)
        operation = "reduce-scatter, all-gather" if parallel.sequence_parallel else "all-reduce"
        found.append(
            Traffic(
                "tensor parallel", operation, tensor,
                (exposed + hidden) * len(layers) * _ring_bytes(tensor, stream),
                (exposed + hidden) * len(layers) * once,
                (exposed + hidden * hardware.overlap_cost) * len(layers) * once,
            )
        )  # fmt: skip
    if (context := groups["context"]).size > 1:
        # Keys and values of all ranks are gathered, and their gradients reduce-scattered.
        width = num_query_groups(model) * kv_channels(model) / tensor.size
        both = WEIGHT_BYTES * tokens * context.size * 2 * width
        times = (2 + again) * len(layers)
        seconds = times * ring_seconds(context, both, hardware)
        operation = "all-gather, reduce-scatter"
        found.append(
            Traffic(
                "context parallel", operation, context, times * _ring_bytes(context, both), seconds, seconds
            )
        )
    experts = sum(moe_layers(model)[layer] for layer in layers)
    if (expert := groups["expert"]).size > 1 and experts:
        # Tokens to their experts and back, in the forward pass; their gradients likewise.
        copies = stream * model.moe_router_topk / tensor.size
        times = 2 * (2 + again) * experts
        seconds = times * all_to_all_seconds(expert, copies, hardware)
        sent = times * copies * (expert.size - 1) / expert.size
        found.append(Traffic("expert parallel", "all-to-all", expert, sent, seconds, seconds))
    return found


def pipeline_traffic(
    model: ModelConfig,
    parallel: ParallelConfig,
    cluster: ClusterConfig,
    *,
    tokens: int,
    sends: int,
    shards: int,
) -> Traffic | None:
    """Activations to the next stage, their gradients to the one before; the step waits for them.

    Args:
        sends: micro-batches that a step's longest chain of stages passes on.
        shards: data-parallel times context-parallel ranks.
    """
    stages, tp = parallel.pipeline_model_parallel_size, parallel.tensor_model_parallel_size
    if stages == 1:
        return None
    group = group_of(stages, tp * shards, cluster.gpus_per_node)
    size = WEIGHT_BYTES * tokens * model.hidden_size / (tp if parallel.sequence_parallel else 1)
    seconds = 2 * sends * send_seconds(group, size, cluster.hardware)
    return Traffic("pipeline", "send, receive", group, 2 * sends * size, seconds, seconds)


def data_traffic(
    table: list[TensorSpec],
    parallel: ParallelConfig,
    cluster: ClusterConfig,
    *,
    data_parallel_size: int,
    forward: float,
    backward: float,
) -> list[Traffic]:
    """Gradients and weights of a stage, between the ranks that hold the same ones.

    Args:
        table: the stage's tensors.
        forward: seconds of a micro-batch's forward pass, which can hide gathering.
        backward: the same of the backward pass, which can hide reducing.
    """
    groups, found = layout_groups(parallel, data_parallel_size, cluster.gpus_per_node), []
    for name, routed in (("data", False), ("expert data", True)):
        group = groups[name]
        buckets = bucket_sizes(
            [spec for spec in table if spec.trained and spec.routed is routed], parallel, data_parallel_size
        )
        if group.size == 1 or not buckets:
            continue
        for operation, width, room, overlaps in (
            ("reduce-scatter", GRADIENT_BYTES, backward, parallel.overlap_grad_reduce),
            ("all-gather", WEIGHT_BYTES, forward, parallel.overlap_param_gather),
        ):
            sizes = [width * numbers for numbers in buckets]
            # The last bucket's gradients come when the backward pass is over, its weights are the first to be
            # used.
            seconds, exposed = hidden_behind(sizes, group, cluster.hardware, room if overlaps else 0.0)
            sent = sum(_ring_bytes(group, size) for size in sizes)
            found.append(Traffic(f"{name} parallel", operation, group, sent, seconds, exposed))
    return found


def hidden_behind(
    sizes: Sequence[float], group: Group, hardware: HardwareConfig, room: float
) -> tuple[float, float]:
    """Seconds of collectives of these sizes in bytes, and of those how many a step waits for.

    Args:
        room: seconds of kernels that can hide all but the last of them.
    """
    each = [ring_seconds(group, size, hardware) for size in sizes]
    seconds = sum(each)
    if not room:
        return seconds, seconds
    rest = seconds - each[-1]
    return seconds, each[-1] + max(0.0, rest - room) + hardware.overlap_cost * min(rest, room)


def bucket_sizes(table: list[TensorSpec], parallel: ParallelConfig, data_parallel_size: int) -> list[float]:
    """Numbers in megatron-core's buckets of a gradient buffer, in the order in which a backward pass fills
    them.

    Without overlap there is one, but a tied table that two stages share has its own in any case.

    Args:
        table: the buffer's tensors, all routed or none, in the model's order.
        parallel: the layout.
        data_parallel_size: its replicas.
    """
    groups = layout_groups(parallel, data_parallel_size, 1)
    ranks = groups["expert data" if table and table[0].routed else "data"].size
    least = max(40_000_000, 1_000_000 * ranks) if parallel.overlap_grad_reduce else math.inf
    buckets, filling = [], 0.0
    for spec in reversed(table):
        held, _ = state_numbers(spec, parallel, data_parallel_size)
        alone = is_tied_table(spec) and parallel.pipeline_model_parallel_size > 1
        if alone and filling:
            buckets.append(filling)
            filling = 0.0
        filling += held
        if alone or filling >= least:
            buckets.append(filling)
            filling = 0.0
    return [*buckets, filling] if filling else buckets


def _ring_bytes(group: Group, size: float) -> float:
    return size * (group.size - 1) / group.size
