"""What a run would train, in words and numbers; no torch import."""

from __future__ import annotations

from recipes.config.schema import ParallelConfig, PretrainConfig
from recipes.config.world import launched_world
from recipes.model.accounting import (
    count_parameters,
    expected_memory_bytes,
    flops_per_token,
    padded_vocab_size,
)
from recipes.training.run import total_steps


def describe_run(config: PretrainConfig, data_parallel_size: int) -> str:
    """The ``dry_run=true`` text."""
    model, trainer, parallel = config.model, config.trainer, config.parallel
    counts = count_parameters(model)
    steps = total_steps(config)
    tokens_per_step = trainer.global_batch_size * config.data.seq_length
    flops = flops_per_token(model, config.data.seq_length)
    # On a machine without CUDA "auto" would be fp32, but a plan for 512 processes is not for this machine.
    bf16 = trainer.precision != "fp32"
    memory = expected_memory_bytes(
        model,
        parallel,
        micro_batch_size=trainer.micro_batch_size,
        seq_length=config.data.seq_length,
        data_parallel_size=data_parallel_size,
        bf16=bf16,
    )
    world_size = parallel.world_size or launched_world().size
    rows = [
        ("run", f"{config.output_dir}/{config.name}"),
        ("parameters", f"{counts.total:,}"),
        ("  non-embedding", f"{counts.non_embedding:,}"),
        ("  active per token", f"{counts.active_per_token:,}"),
        ("vocabulary", f"{model.vocab_size:,} (padded to {padded_vocab_size(model):,})"),
        ("tokens per step", f"{tokens_per_step:,} = {trainer.global_batch_size} x {config.data.seq_length}"),
        ("steps", f"{steps:,}"),
        ("tokens in all", f"{steps * tokens_per_step:,}"),
        ("FLOPs per token", f"{flops / 1e9:,.3f} GFLOP (forward and backward, full attention context)"),
        ("FLOPs in all", f"{flops * steps * tokens_per_step:.3e}"),
        ("layout", f"{world_size} process(es): {_layout(parallel, data_parallel_size)}"),
        (
            "memory per device",
            f"{sum(memory.values()) / 2**30:,.2f} GiB expected ({'bf16' if bf16 else 'fp32'})",
        ),
        *((f"  {part}", f"{size / 2**30:,.2f} GiB") for part, size in memory.items()),
        ("precision", trainer.precision),
        ("learning rate", _schedule(config, steps)),
        *_blend_rows(config),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _layout(parallel: ParallelConfig, data_parallel_size: int) -> str:
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


def _schedule(config: PretrainConfig, steps: int) -> str:
    optim = config.optim
    text = f"{optim.lr_decay_style}, {optim.lr:g} to {optim.min_lr:g}, {optim.lr_warmup_steps} warm-up steps"
    decay = optim.lr_decay_steps or steps
    return text if decay == steps else f"{text}, decay over {decay:,}"


def _blend_rows(config: PretrainConfig) -> list[tuple[str, str]]:
    total = sum(source.weight for source in config.data.train.values())
    return [
        (f"source {name}", f"{100 * source.weight / total:.2f} %  {source.path}")
        for name, source in config.data.train.items()
        if total > 0
    ]
