"""How long a rank's kernels take, from the table of the model's tensors. No torch here.

Every kernel is either bound by the tensor cores or by memory, so a product takes the time of its
floating-point operations and of the bytes that it moves. The constants are those of one H200 that trained
Param-1 2.9B (micro-batch 4, sequence 2,048, bf16, no Transformer Engine; docs/performance.md) and hold for
other GPUs as far as their peak and their bandwidth say all about them; ``cluster.hardware.kernel_speed`` is
what remains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipes.config.cluster_schema import HardwareConfig
from recipes.config.devices import GPUS
from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.config.stages import stage_sizes
from recipes.families.family import layer_windows
from recipes.families.model_config import ModelConfig, padded_vocab_size
from recipes.families.tensors import EXPERTS, MLP, SHARED_EXPERTS, TensorSpec
from recipes.optim.kinds import parameter_kind
from recipes.plan.activations import LayerActivations, given_up, layer_activations
from recipes.plan.stages import stage_tables, state_numbers

PRODUCTS = 0.84
"""Share of the peak that a product reaches besides the time of its bytes: 633 ms for 4 micro-batches."""
ATTENTION = 0.64
"""The same of attention, by operations that count the full context: 83 ms."""
PASSES = 7.65
"""How often all other kernels move each number that is kept for the backward pass: 130 ms. Written and read
in the forward pass; read with its gradient's reading and writing in the backward pass; the rest is what no
kernel fuses."""
LOSS_PASSES = 2.3
"""How often the cross entropy moves the logits: 8 ms."""
OPTIMIZER_BYTES = {"adamw": 61, "muon": 32}
"""Moved for a number of the optimizer's shard, with the norm and the clipping: 41 ms with AdamW, whose state
alone makes 30. Muon's are for its state; its products are counted beside them."""


@dataclass(frozen=True)
class Kernels:
    """Seconds of one pipeline stage on one rank."""

    forward: float
    """Of a micro-batch, as the next two."""
    backward: float
    recomputed: float
    """Of the forward pass, once more in the backward pass."""
    optimizer: float
    """Of a step."""

    @property
    def micro_batch(self) -> float:
        return self.forward + self.backward + self.recomputed


@dataclass(frozen=True)
class _Speeds:
    flops: float
    bytes: float

    @classmethod
    def of(cls, hardware: HardwareConfig) -> _Speeds:
        gpu = GPUS[hardware.gpu]
        assert gpu.peak_flops is not None and gpu.bandwidth is not None
        return cls(gpu.peak_flops * hardware.kernel_speed, gpu.bandwidth * hardware.kernel_speed)


def stage_kernels(
    model: ModelConfig,
    optim: OptimConfig,
    parallel: ParallelConfig,
    hardware: HardwareConfig,
    *,
    micro_batch_size: int,
    seq_length: int,
    data_parallel_size: int,
) -> list[Kernels]:
    """Of every pipeline stage, in bf16."""
    speeds = _Speeds.of(hardware)
    tokens = micro_batch_size * seq_length / parallel.context_parallel_size
    activations = layer_activations(model, parallel, seq_length, on_cuda=True)
    windows = layer_windows(model)
    sizes = stage_sizes(model, parallel)
    stages, first = [], 0
    for number, (count, table) in enumerate(zip(sizes, stage_tables(model, sizes), strict=True)):
        forward = backward = again = 0.0
        of_layer: dict[int | None, list[TensorSpec]] = {}
        for spec in table:
            of_layer.setdefault(spec.layer, []).append(spec)
        for layer in range(first, first + count):
            specs = of_layer[layer]
            parts = _layer(
                model, parallel, specs, windows[layer], activations[layer], tokens, seq_length, speeds
            )
            forward += sum(parts.forward.values())
            backward += parts.backward
            again += _recomputed(parallel, parts, activations[layer], layer - first, tokens, speeds)
        for spec in of_layer.get(None, []):
            if spec.multiplied and number == len(sizes) - 1:
                ahead, back = _product(spec, model, parallel, tokens, speeds)
                loss = LOSS_PASSES * 2 * tokens * padded_vocab_size(model)
                loss /= parallel.tensor_model_parallel_size * speeds.bytes
                forward, backward = forward + ahead + loss / 2, backward + back + loss / 2
        update = _optimizer(table, model, optim, parallel, data_parallel_size, speeds)
        stages.append(Kernels(forward, backward, again, update))
        first += count
    return stages


@dataclass(frozen=True)
class _Layer:
    forward: dict[str, float]
    """Seconds of "attn", "mlp", "moe", "shared_experts" (products), "core_attn" and "other"."""
    backward: float


def _layer(
    model: ModelConfig,
    parallel: ParallelConfig,
    specs: list[TensorSpec],
    window: int | None,
    kept: LayerActivations,
    tokens: float,
    seq_length: int,
    speeds: _Speeds,
) -> _Layer:
    names = {MLP: "mlp", EXPERTS: "moe", SHARED_EXPERTS: "shared_experts"}
    forward = dict.fromkeys(("attn", "mlp", "moe", "shared_experts"), 0.0)
    backward = 0.0
    for spec in specs:
        if spec.multiplied:
            ahead, back = _product(spec, model, parallel, tokens, speeds)
            forward[names.get(spec.part, "attn")] += ahead
            backward += back
    context = min(window or seq_length, seq_length)
    attention = 4 * tokens * sum(spec.queries for spec in specs) * context
    attention /= parallel.tensor_model_parallel_size * ATTENTION * speeds.flops
    moved = PASSES * 2 * tokens * (kept.total - kept.attention_matrix) / speeds.bytes
    return _Layer(
        forward | {"core_attn": attention, "other": moved / 3}, backward + 2 * attention + 2 * moved / 3
    )


def _product(
    spec: TensorSpec, model: ModelConfig, parallel: ParallelConfig, tokens: float, speeds: _Speeds
) -> tuple[float, float]:
    """Forward and backward seconds of a matrix, whose gradient is added to the fp32 main gradients."""
    rows, columns = spec.shape[0], math.prod(spec.shape[1:])
    tp, held = parallel.tensor_model_parallel_size, 1.0
    split = tp if spec.split else 1
    if spec.routed:
        # Balanced routers: an expert sees its share of the tokens of all ranks that it is shared out to. What
        # tensor-parallel ranks do not split inside an expert, they split by tokens.
        split = (parallel.expert_tensor_parallel_size or tp) if spec.split else 1
        tokens *= model.moe_router_topk / (model.num_moe_experts or 1) * split / tp
        held = 1 / parallel.expert_model_parallel_size
    numbers = rows * columns / split
    work = 2 * tokens * numbers / (PRODUCTS * speeds.flops)
    carried = 2 * tokens * (rows + columns) / split / speeds.bytes
    weight = numbers * held / speeds.bytes
    return work + carried + 2 * weight, 2 * work + 2 * carried + (2 + 8) * weight


def _recomputed(
    parallel: ParallelConfig,
    layer: _Layer,
    kept: LayerActivations,
    place: int,
    tokens: float,
    speeds: _Speeds,
) -> float:
    """Seconds of the layer's forward pass that the backward pass repeats. ``place``: in its stage."""
    if parallel.recompute_granularity == "full":
        spared = parallel.recompute_method == "block" and place >= (parallel.recompute_num_layers or 1)
        return 0.0 if spared else sum(layer.forward.values())
    if parallel.recompute_granularity != "selective":
        return 0.0
    modules = parallel.recompute_modules or ["core_attn"]
    seconds = sum(layer.forward.get(module, 0.0) for module in modules)
    if "moe" in modules and "shared_experts" not in modules:
        seconds += layer.forward["shared_experts"]
    return seconds + PASSES / 3 * 2 * tokens * given_up(kept, modules) / speeds.bytes


def _optimizer(
    table: list[TensorSpec],
    model: ModelConfig,
    optim: OptimConfig,
    parallel: ParallelConfig,
    data_parallel_size: int,
    speeds: _Speeds,
) -> float:
    seconds = 0.0
    for spec in table:
        if not spec.trained:
            continue
        held, sharded = state_numbers(spec, parallel, data_parallel_size)
        # Gradients are set to zero, and their norm is read, before they are shared out.
        seconds += (8 * held + OPTIMIZER_BYTES[optim.name] * sharded) / speeds.bytes
        if optim.name == "muon" and parameter_kind(spec.name, spec.shape) == "matrix":
            small, large = sorted((spec.shape[0], math.prod(spec.shape[1:])))
            work = optim.muon_num_iterations * (4 * small * small * large + 2 * small**3)
            seconds += work * sharded / spec.stored_numbers() / (PRODUCTS * speeds.flops)
    return seconds
