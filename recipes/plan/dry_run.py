"""What a run would train, in words and numbers; no torch import."""

from __future__ import annotations

from pathlib import Path

from recipes.config.lengths import Clock, configured_warmup, total_steps
from recipes.config.parameter_groups import matching_names
from recipes.config.schedule import schedule_of
from recipes.config.schema import OptimConfig, ParallelConfig, PretrainConfig
from recipes.config.timeline import Timeline, timeline_of
from recipes.config.world import launched_world
from recipes.counts import counted
from recipes.data.tokenizer import load_tokenizer
from recipes.families.family import tensor_table
from recipes.families.model_config import padded_vocab_size
from recipes.plan.accounting import count_parameters, flops_by_length, flops_until
from recipes.plan.device_rows import device_rows
from recipes.plan.epochs import epoch_rows
from recipes.plan.phase_rows import phase_rows
from recipes.plan.plots import draw_plots
from recipes.plan.unused_rows import unused_rows


def describe_run(config: PretrainConfig, data_parallel_size: int) -> str:
    """The ``dry_run=true`` text."""
    model, trainer, parallel = config.model, config.trainer, config.parallel
    counts = count_parameters(model)
    steps = total_steps(config)
    timeline = timeline_of(config)
    flops = flops_by_length(model, timeline)
    world_size = parallel.world_size or launched_world().size
    rows = [
        ("run", f"{config.output_dir}/{config.name}"),
        ("parameters", f"{counts.total:,}"),
        ("  non-embedding", f"{counts.non_embedding:,}"),
        ("  active per token", f"{counts.active_per_token:,}"),
        ("vocabulary", f"{model.vocab_size:,} (padded to {padded_vocab_size(model):,})"),
        *_unused_rows(config),
        ("tokens per step", _tokens_per_step(timeline, steps, world_size)),
        ("steps", f"{steps:,}"),
        ("tokens in all", f"{timeline.tokens(steps):,}"),
        ("FLOPs per token", f"{_range(flops)} GFLOP (forward and backward, full attention context)"),
        ("FLOPs in all", f"{flops_until(steps, timeline, flops):.3e}"),
        ("layout", f"{counted(world_size, 'process', 'processes')}: {layout(parallel, data_parallel_size)}"),
        ("precision", trainer.precision),
        *device_rows(config, data_parallel_size, world_size),
        ("learning rate", schedule_in_words(config)),
        *_rate_rows(config.optim),
        *_group_rows(config),
        *phase_rows(config),
        *epoch_rows(config),
    ]
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
    return f"{table}\n\n{draw_plots(config)}"


def _tokens_per_step(timeline: Timeline, steps: int, world_size: int) -> str:
    sizes = {(each.global_batch_size, each.seq_length) for each in timeline.before(steps)}
    numbers = [batch * length for batch, length in sizes]
    if len(sizes) == 1:
        ((batch, length),) = sizes
        return f"{batch * length:,} = {batch:,} x {length:,}; {batch * length // world_size:,} per device"
    return f"{min(numbers):,} to {max(numbers):,}, see the phases"


def _range(flops: dict[int, int]) -> str:
    least, most = min(flops.values()) / 1e9, max(flops.values()) / 1e9
    return f"{least:,.3f}" if least == most else f"{least:,.3f} to {most:,.3f}"


def _unused_rows(config: PretrainConfig) -> list[tuple[str, str]]:
    """A warning if the tokenizer is there and much smaller than the model's vocabulary."""
    path = config.tokenizer.model
    if path is None or not Path(path).exists():
        return []
    unused = unused_rows(config, load_tokenizer(path).vocab_size)
    return [("  warning", unused)] if unused else []


def layout(parallel: ParallelConfig, data_parallel_size: int) -> str:
    """How the processes share the work, in words."""
    sizes = {
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "context": parallel.context_parallel_size,
        "data": data_parallel_size,
    }
    text = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1 or name != "context")
    if parallel.sequence_parallel:
        text += ", sequence parallel"
    if parallel.expert_model_parallel_size > 1:
        text += f", experts over {parallel.expert_model_parallel_size}"
    if parallel.recompute_granularity is not None:
        text += f", {parallel.recompute_granularity} recomputation"
    return text


def schedule_in_words(config: PretrainConfig) -> str:
    """The learning rate's course, of a run in phases up to the first one that sets another."""
    optim, segments, steps = config.optim, schedule_of(config).segments, total_steps(config)
    lengths = segments[0].lengths
    warmup = configured_warmup(optim, Clock(timeline_of(config)))
    text = f"{optim.lr_decay_style}, {optim.lr:g} to {optim.min_lr:g}, {warmup:,} warm-up steps"
    if warmup > lengths.warmup:
        text += f" (cut to {lengths.warmup:,})"
    if optim.lr_decay_style == "WSD":
        text += f", {lengths.wsd_decay:,} steps of {optim.lr_wsd_decay_style} decay"
    if len(segments) > 1:
        text += f", up to step {segments[1].first_step:,}"
        steps = segments[1].first_step
    return text if lengths.decay == max(1, steps) else f"{text}, decay over {lengths.decay:,}"


def _rate_rows(optim: OptimConfig) -> list[tuple[str, str]]:
    """Learning rates of the parameter groups that do not follow optim.lr."""
    rates = {"embeddings": optim.embedding_lr, "head": optim.head_lr, "scalars": optim.scalar_lr}
    return [
        (f"  {name}", f"{rate:g} to {optim.min_lr * rate / optim.lr:g}")
        for name, rate in rates.items()
        if rate is not None
    ]


def _group_rows(config: PretrainConfig) -> list[tuple[str, str]]:
    """What each pattern of optim.groups takes, and what it changes."""
    numbers = {spec.name: spec.numbers() for spec in tensor_table(config.model) if spec.trained}
    rows = []
    for group in config.optim.groups:
        names = matching_names(group, numbers)
        rate = f"lr x {group.lr_mult:g}" if group.lr is None else f"lr {group.lr:g}"
        changes = [rate] if group.lr is not None or group.lr_mult != 1.0 else []
        changes += [] if group.weight_decay is None else [f"weight decay {group.weight_decay:g}"]
        shown = names if len(names) <= 2 else [names[0], "...", names[-1]]
        size = f"{counted(len(names), 'tensor')}, {sum(numbers[name] for name in names):,} parameters"
        rows.append((f"  {group.pattern}", f"{', '.join(changes)}: {size}: {', '.join(shown)}"))
    return rows
