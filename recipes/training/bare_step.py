"""Training steps of a described model as recipes.pretrain takes them, without data, loop or saves: to time
them."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.config.world import World
from recipes.model.build import build_gpt_model
from recipes.model.init import initialize_weights
from recipes.parallel.setup import device_of, init_model_parallel, init_process_group, resolve_dtype
from recipes.training.cuda_graph import step_of, stream_for_training
from recipes.training.engine import build_engine

BareStep = Callable[[Tensor], None]
"""One optimizer step over ``[global batch, s + 1]`` tokens."""
WARM_UP = 5
"""Steps that compile, and record CUDA graphs."""


def bare_step(config: PretrainConfig) -> BareStep:
    """Model, DDP, schedule and optimizer; process groups of one process are there."""
    init_model_parallel(config.parallel, config.seed)
    dtype = resolve_dtype(config.trainer.precision)
    gpt = build_gpt_model(config.model, config.parallel, dtype)
    initialize_weights(gpt, config.model, config.seed)
    gpt.to(device_of(World()))
    halves = step_of(build_engine(gpt, config, dtype), config, device_of(World()))

    def step(tokens: Tensor) -> None:
        batch = {
            "tokens": tokens[:, :-1].contiguous(),
            "labels": tokens[:, 1:].contiguous(),
            "loss_mask": torch.ones(tokens[:, 1:].shape, device=tokens.device),
        }
        halves.gradients(batch)
        halves.update()

    return step


def time_steps(config: PretrainConfig, steps: int) -> list[float]:
    """Seconds of each of some steps on random tokens, in this process, after WARM_UP others."""
    device = device_of(World())
    init_process_group(World())
    times = []
    with stream_for_training(config, World()):
        step = bare_step(config)
        first = timeline_of(config).segments[0]
        shape = (first.global_batch_size, first.seq_length + 1)
        for _ in range(WARM_UP + steps):
            tokens = torch.randint(config.model.vocab_size, shape, device=device)
            torch.cuda.synchronize()
            began = time.perf_counter()
            step(tokens)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return times[WARM_UP:]
