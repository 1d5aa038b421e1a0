"""A plan as text, and as plain data for programs."""

from __future__ import annotations

from typing import Any

from recipes.counts import amount_in_words, counted, energy_in_words, time_in_words, time_unit
from recipes.plan.accounting import count_parameters, flops_per_token
from recipes.plan.device_rows import memory_in_words
from recipes.plan.dry_run import layout
from recipes.plan.memory_check import GIB
from recipes.plan.run_plan import RunPlan
from recipes.plan.step_time import bubble_share
from recipes.plan.traffic import Traffic

LAUNCHED_S = 0.02
"""A slow host takes so long to launch the kernels of a small model's micro-batch, which no plan knows of."""
PART_NAMES = {
    "gradients": "main gradients (fp32)",
    "optimizer": "optimizer shard",
    "framework": "CUDA, libraries",
}
"""What the parts of memory are called beside a cluster, where gradients are nothing but the main ones."""


def plan_text(plan: RunPlan) -> str:
    """Everything about one layout."""
    rows = [
        *_model_rows(plan),
        *_memory_rows(plan),
        *_traffic_rows(plan),
        *_time_rows(plan),
        *_cost_rows(plan),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _model_rows(plan: RunPlan) -> list[tuple[str, str]]:
    config, cluster = plan.config, plan.cluster
    counts = count_parameters(config.model)
    flops = flops_per_token(config.model, config.data.seq_length)
    trainer = config.trainer
    replicas = counted(plan.data_parallel_size, "replica does", "replicas do")
    batch = f"{trainer.global_batch_size:,} x {config.data.seq_length:,} tokens; {replicas} "
    batch += f"{plan.micro_batches:,} x {trainer.micro_batch_size}"
    return [
        ("run", config.name),
        ("parameters", f"{counts.total:,}, {counts.active_per_token:,} active per token"),
        ("FLOPs per token", f"{flops / 1e9:,.3f} GFLOP"),
        ("cluster", f"{cluster.nodes:,} x {cluster.gpus_per_node} {cluster.hardware.gpu}"),
        ("layout", layout(config.parallel, plan.data_parallel_size)),
        ("batch", batch),
    ]


def _memory_rows(plan: RunPlan) -> list[tuple[str, str]]:
    total = sum(plan.memory.values())
    share = f"{100 * total / plan.capacity:.0f} %: {'fits' if plan.fits else 'DOES NOT FIT'}"
    rows = [("memory per GPU", f"{total / GIB:,.1f} of {plan.capacity / GIB:,.1f} GiB, {share}")]
    for part, size in plan.memory.items():
        if size:  # Not an average that is not kept.
            rows.append((f"  {PART_NAMES.get(part, part)}", f"{memory_in_words(size):>10}"))
    return [*rows, ("  key-value cache", "  none in training")]


def _sent(size: float) -> str:
    return f"{size / 1e9:6,.2f} GB" if size >= 1e8 else f"{size / 1e6:6,.1f} MB"


def _traffic_rows(plan: RunPlan) -> list[tuple[str, str]]:
    found = [traffic for traffic in plan.step.traffic if traffic.group.size > 1]
    if not found:
        return [("sent per GPU, step", "nothing")]
    total = sum(traffic.bytes for traffic in found)
    return [
        ("sent per GPU, step", _sent(total).strip()),
        *((f"  {traffic.name}", _of_traffic(traffic)) for traffic in found),
    ]


def _of_traffic(traffic: Traffic) -> str:
    name, size = time_unit(traffic.seconds)
    return (
        f"{_sent(traffic.bytes)}  {traffic.operation} over {traffic.group.size:,} "
        f"({traffic.group.link}): {traffic.seconds / size:,.1f} {name}, "
        f"{traffic.exposed / size:,.1f} waited for"
    )


def _time_rows(plan: RunPlan) -> list[tuple[str, str]]:
    step = plan.step
    parts = {
        "kernels": step.kernels,
        "recomputation": step.recomputation,
        "communication": step.communication,
        "pipeline bubble": step.bubble,
        "optimizer": step.optimizer,
    }
    units = {name: time_unit(seconds) for name, seconds in parts.items()}
    longest = max(len(units[name][0]) for name, seconds in parts.items() if seconds)
    rows = [("step", time_in_words(step.seconds))]
    for name, seconds in parts.items():
        if seconds:
            note = _bubble(plan) if name == "pipeline bubble" else ""
            unit, size = units[name]
            share = f"{100 * seconds / step.seconds:4.1f} %{note}"
            rows.append((f"  {name}", f"{seconds / size:8,.1f} {unit:<{longest}}  {share}"))
    rows.append(("speed", f"{step.tokens_per_second:,.0f} tokens/s per GPU, {100 * step.mfu:.1f} % MFU"))
    if (each := step.kernels / plan.micro_batches) < LAUNCHED_S:
        rows.append(("  at most", f"launching {time_in_words(each)} of kernels may take longer: --measure"))
    return rows


def _bubble(plan: RunPlan) -> str:
    """What interleaving would make of it; the trainer has none."""
    stages = plan.config.parallel.pipeline_model_parallel_size
    halved = bubble_share(stages, plan.micro_batches, 2)
    whole = bubble_share(stages, plan.micro_batches)
    return f"; of equal stages {100 * whole:.1f} % of the work, interleaved by 2 {100 * halved:.1f} %"


def _cost_rows(plan: RunPlan) -> list[tuple[str, str]]:
    rows = [
        ("steps", f"{plan.steps:,}, {plan.tokens:,} tokens"),
        ("time", time_in_words(plan.seconds)),
        ("GPU-hours", amount_in_words(plan.gpu_hours)),
    ]
    if plan.energy_kwh is not None:
        rows.append(("energy", energy_in_words(plan.energy_kwh)))
    if plan.price is not None:
        rows.append(("price", amount_in_words(plan.price)))
    return rows


def plan_data(plan: RunPlan) -> dict[str, Any]:
    """The same for programs: seconds, bytes, watt-hours as they are."""
    parallel, step = plan.config.parallel, plan.step
    return {
        "parameters": count_parameters(plan.config.model).total,
        "gpus": plan.gpus,
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "context": parallel.context_parallel_size,
        "expert": parallel.expert_model_parallel_size,
        "data": plan.data_parallel_size,
        "micro_batch_size": plan.config.trainer.micro_batch_size,
        "recompute_granularity": parallel.recompute_granularity,
        "memory_bytes": plan.memory,
        "capacity_bytes": plan.capacity,
        "fits": plan.fits,
        "traffic": [
            {"name": each.name, "operation": each.operation, "ranks": each.group.size, "link":
            each.group.link,
             "bytes": each.bytes, "seconds": each.seconds, "exposed_s": each.exposed}
            for each in step.traffic
        ],
        "step_s": step.seconds,
        "kernels_s": step.kernels,
        "recomputation_s": step.recomputation,
        "communication_s": step.communication,
        "bubble_s": step.bubble,
        "optimizer_s": step.optimizer,
        "tokens_per_second_per_gpu": step.tokens_per_second,
        "mfu": step.mfu,
        "steps": plan.steps,
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "energy_kwh": plan.energy_kwh,
        "price": plan.price,
    }  # fmt: skip
