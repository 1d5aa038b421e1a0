"""Training steps of our model and of others, in turns."""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from benchmarks.measure.llama import llama_config
from benchmarks.measure.profile_step import Row, by_kind, print_profile, profiled
from benchmarks.records import record
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.world import World
from recipes.errors import UserError
from recipes.families.model_config import num_query_groups
from recipes.parallel.setup import device_of, init_process_group, resolve_dtype
from recipes.plan.accounting import flops_per_token
from recipes.training.bare_step import BareStep, bare_step
from recipes.training.callbacks.metrics import known_peak_flops
from recipes.training.cuda_graph import stream_for_training


def transformers_step(config: PretrainConfig, compiled: bool) -> BareStep:
    """LlamaForCausalLM of the same shapes with PyTorch's fused AdamW."""
    from transformers import LlamaForCausalLM

    llama = LlamaForCausalLM(llama_config(config.model))
    llama.set_attn_implementation("sdpa")
    torch.nn.Module.to(llama, device_of(World()), resolve_dtype(config.trainer.precision))
    optim = config.optim
    optimizer = torch.optim.AdamW(
        llama.parameters(),
        lr=optim.lr,
        betas=(optim.betas[0], optim.betas[1]),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )

    def loss_of_states(states: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = llama.loss_function(
            llama.lm_head(states), None, llama.config.vocab_size, shift_labels=labels
        )
        return loss

    if compiled:
        # Layer by layer, as ours: the same kernels as for the whole, compiled once and not for each layer.
        for layer in llama.model.layers:
            layer.compile(dynamic=False)
        loss_of_states = torch.compile(loss_of_states, dynamic=False)

    def loss_of(tokens: Tensor) -> Tensor:
        states = llama.model(tokens[:, :-1].contiguous(), use_cache=False).last_hidden_state
        return loss_of_states(states, tokens[:, 1:].contiguous())

    return _plain_step(config, loss_of, [optimizer], list(llama.parameters()))


def nanochat_step(config: PretrainConfig, compiled: bool, checkout: str) -> BareStep:
    """nanochat's GPT and its own optimizers."""
    sys.path.insert(0, checkout)
    nanochat = importlib.import_module("nanochat.gpt")
    model = config.model
    gpt = nanochat.GPT(
        nanochat.GPTConfig(
            sequence_len=config.data.seq_length,
            vocab_size=model.vocab_size,
            n_layer=model.num_layers,
            n_head=model.num_attention_heads,
            n_kv_head=num_query_groups(model),
            n_embd=model.hidden_size,
            window_pattern=model.window_pattern or "L",
        )
    )
    gpt.to(device_of(World()))
    gpt.init_weights()
    make_optimizers = getattr(gpt, "setup_optimizers", None) or gpt.setup_optimizer
    optimizers = make_optimizers()
    autocast = torch.amp.autocast("cuda", dtype=torch.bfloat16, enabled=torch.cuda.is_available())
    forward = torch.compile(gpt, dynamic=False) if compiled else gpt

    def loss_of(tokens: Tensor) -> Tensor:
        with autocast:
            loss: Tensor = forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        return loss

    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    return _plain_step(config, loss_of, optimizers, [])


def _plain_step(
    config: PretrainConfig,
    loss_of: Callable[[Tensor], Tensor],
    optimizers: list[torch.optim.Optimizer],
    clipped: list[Tensor],
) -> BareStep:
    size = config.trainer.micro_batch_size

    def step(tokens: Tensor) -> None:
        micro_batches = tokens.split(size)
        for micro_batch in micro_batches:
            (loss_of(micro_batch) / len(micro_batches)).backward()
        if clipped:
            torch.nn.utils.clip_grad_norm_(clipped, config.optim.clip_grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


@dataclass
class Measured:
    """One model's steps in all its turns, by their number of micro-batches."""

    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds of every step after the warm-up."""
    peak: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """The most GPU memory in bytes; 0 on the CPU."""
    build_s: float = 0.0
    """Seconds to build model and optimizer and draw the weights, in the first turn."""
    warm_up_s: float = 0.0
    """Seconds of the first steps, which compile, in the first turn."""
    kernels: list[Row] = field(default_factory=list)
    """What one step ran on, if it was profiled."""


def measure(
    measured: Measured,
    build: Callable[[], BareStep],
    batches: dict[int, Tensor],
    warm_up: int,
    *,
    profile: bool,
) -> None:
    """A turn: builds the model, and takes steps of each number of micro-batches; profiles one of the last."""
    started = time.perf_counter()
    step = build()
    torch.cuda.synchronize()
    measured.build_s = measured.build_s or time.perf_counter() - started
    for count, rows in batches.items():
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        times = []
        for tokens in rows:
            started = time.perf_counter()
            step(tokens)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        measured.warm_up_s = measured.warm_up_s or sum(times[:warm_up])
        measured.times[count] += times[warm_up:]
        if torch.cuda.is_available():
            measured.peak[count] = max(measured.peak[count], torch.cuda.max_memory_allocated())
    if profile:
        measured.kernels = profiled(partial(step, tokens))
    del step
    parallel_state.destroy_model_parallel()
    gc.collect()
    torch.cuda.empty_cache()


def run(options: argparse.Namespace) -> None:
    """Measures in turns and prints the ratio."""
    config = compose("pretrain", options.overrides)
    if options.against == "nanochat" and not options.checkout:
        raise UserError("--against nanochat: give its checkout with --checkout PATH")
    builders: dict[str, Callable[[], BareStep]] = {"ours": lambda: bare_step(config)}
    if options.against == "transformers":
        builders["transformers"] = lambda: transformers_step(config, options.compile)
    elif options.against == "nanochat":
        builders["nanochat"] = lambda: nanochat_step(config, options.compile, options.checkout)
    device = device_of(World())
    init_process_group(World())
    size = config.trainer.micro_batch_size
    steps = options.steps + options.warm_up
    batches = {
        count: torch.randint(
            config.model.vocab_size, (steps, count * size, config.data.seq_length + 1), device=device
        )
        for count in options.micro_batches or [config.trainer.global_batch_size // size]
    }
    measured = {name: Measured() for name in builders}
    with stream_for_training(config, World()):
        for turn in range(options.turns):
            for name, build in builders.items():
                profile = options.profile and turn == options.turns - 1
                measure(measured[name], build, batches, options.warm_up, profile=profile)
                if turn == options.turns - 1:  # At once: the other model may take too long to compile.
                    report(name, measured[name], config, options.json)
    compare(measured, options.json)
    dist.destroy_process_group()


def report(name: str, found: Measured, config: PretrainConfig, json: Path | None) -> None:
    """Prints medians, rates and where the time went."""
    peak_flops = known_peak_flops(torch.cuda.get_device_name, config.trainer.peak_tflops)
    flops = flops_per_token(config.model, config.data.seq_length)
    for count, times in found.times.items():
        tokens, seconds = count * config.trainer.micro_batch_size * config.data.seq_length, median(times)
        mfu = 100 * tokens / seconds * flops / peak_flops if peak_flops else None
        peak = found.peak[count] / 2**30
        line = f"{name:<14}{1000 * seconds:10.1f} ms per step {tokens / seconds:12,.0f} tokens/s"
        line += f"{mfu:7.1f} % MFU" if mfu else ""
        line += f"{peak:8.2f} GiB" if peak else ""
        print(f"{line}  ({count} micro-batches)", flush=True)
        record(
            json,
            who=name,
            micro_batches=count,
            micro_batch_size=config.trainer.micro_batch_size,
            ms_per_step=1000 * seconds,
            tokens_per_second=tokens / seconds,
            mfu_percent=mfu,
            gib=peak or None,
            build_s=found.build_s,
            warm_up_s=found.warm_up_s,
        )
    first = f"{found.build_s:10.1f} s to build {found.warm_up_s:10.1f} s for the first steps"
    print(f"{name:<14}{first}", flush=True)
    if found.kernels:
        print_profile(found.kernels)
    who = "profile" if name == "ours" else f"profile of {name}"
    for row in by_kind(found.kernels):
        record(json, who=who, kind=row.name, ms=row.milliseconds, calls=row.calls)


def compare(measured: dict[str, Measured], json: Path | None) -> None:
    """Prints the ratios of the medians."""
    ours = measured["ours"]
    for count, times in ours.times.items():
        for name in [name for name in measured if name != "ours"]:
            ratio = median(times) / median(measured[name].times[count])
            print(f"{'ratio':<14}{ratio:10.3f}")
            record(json, who="ratio", against=name, ours_over_theirs=ratio)
