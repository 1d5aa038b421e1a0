"""Training steps through the recipes and in a bare megatron-core loop, in turns."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from lightning.pytorch import Callback
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.pipeline_parallel import get_forward_backward_func

import recipes.training.fit as training
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.config.world import World
from recipes.data.corpus.write import make_corpus
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer.train import train_tokenizer
from recipes.model.build import build_gpt_model
from recipes.model.init import initialize_weights
from recipes.optim.build import build_optimizer
from recipes.parallel.setup import device_of, init_model_parallel, init_process_group, resolve_dtype
from recipes.training.run import pretrain

WARM_UP = 10


class StepClock(Callback):
    """The time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())

    def steps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)][WARM_UP:]


def prepare(directory: Path, overrides: list[str], steps: int) -> PretrainConfig:
    """A generated corpus, tokenized, and the run's configuration."""
    make_corpus(directory / "corpus", size=4_000_000, seed=1, world_seed=1, people=32, force=False)
    texts = [directory / "corpus" / f"train.{language}.jsonl" for language in ("en", "hi")]
    train_tokenizer(texts, directory / "tokenizer", vocab_size=2048, model_type="bpe")
    for language, text in zip(("en", "hi"), texts, strict=True):
        preprocess([text], directory / "tokenizer.model", directory / f"train_{language}")
    return compose(
        "pretrain",
        [
            "experiment=quickstart",
            f"data_dir={directory}",
            f"data.valid={{en:{directory}/train_en,hi:{directory}/train_hi}}",
            "trainer.limit_val_batches=1",
            "trainer.val_check_interval=null",
            f"output_dir={directory}",
            f"trainer.max_steps={steps + WARM_UP + 1}",
            "trainer.checkpoint.every_n_steps=null",
            "save_nemo=false",
            *overrides,
        ],
    )


def recipes_steps(config: PretrainConfig, name: str) -> list[float]:
    """Seconds per step of recipes.pretrain."""
    clock = StepClock()
    trainer_of = training._trainer

    def with_clock(*args: Any) -> Any:
        trainer: Any = trainer_of(*args)
        trainer.callbacks.append(clock)
        return trainer

    with patch.object(training, "_trainer", with_clock):
        pretrain(dataclasses.replace(config, name=name))
    return clock.steps()


def bare_steps(config: PretrainConfig, steps: int) -> list[float]:
    """Seconds per step of the shortest megatron-core loop: batches are in memory, nothing is logged."""
    world, device = World(), device_of(World())
    init_process_group(world)
    init_model_parallel(config.parallel, config.seed)
    dtype = resolve_dtype(config.trainer.precision)
    gpt = build_gpt_model(config.model, config.parallel, dtype).to(device)
    initialize_weights(gpt, config.model, config.seed)
    ddp_config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    ddp = DistributedDataParallel(gpt.config, ddp_config, gpt)
    optimizer = build_optimizer(config.optim, config.parallel, dtype, [ddp])
    gpt.config.finalize_model_grads_func = finalize_model_grads
    gpt.config.grad_scale_func = optimizer.scale_loss
    run = get_forward_backward_func()
    size, length = config.trainer.micro_batch_size, config.data.seq_length
    count = config.trainer.global_batch_size // size
    tokens = torch.randint(0, config.model.vocab_size, (16, size, length + 1), device=device)
    positions = torch.arange(length, device=device).expand(size, -1)

    def forward_step(batches: Any, model: Any) -> Any:
        batch = next(batches)
        losses = model(batch[:, :-1].contiguous(), positions, None, labels=batch[:, 1:].contiguous())
        return losses, lambda out: (
            out.float().sum(),
            torch.tensor(out.numel(), dtype=torch.int, device=device),
            {},
        )

    times = []
    for step in range(steps + WARM_UP):
        started = time.perf_counter()
        ddp.zero_grad_buffer()
        optimizer.zero_grad()
        run(
            forward_step_func=forward_step,
            data_iterator=iter([tokens[(step + i) % 16] for i in range(count)]),
            model=[ddp],
            num_microbatches=count,
            seq_length=length,
            micro_batch_size=size,
            forward_only=False,
        )
        optimizer.step()
        times.append(time.perf_counter() - started)
    training._leave(0)
    return times[WARM_UP:]


def run(options: argparse.Namespace) -> None:
    """Measures in turns and prints the ratio."""
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        config = prepare(Path(temporary), options.overrides, options.steps)
        validate_pretrain(config)
        for turn in range(options.turns):
            bare += bare_steps(config, options.steps)
            ours += recipes_steps(config, f"turn{turn}")
    ratio = statistics.median(ours) / statistics.median(bare)
    print(f"recipes  {1000 * statistics.median(ours):8.2f} ms per step (median of {len(ours)})")
    print(f"bare     {1000 * statistics.median(bare):8.2f} ms per step (median of {len(bare)})")
    print(f"ratio    {ratio:8.3f}")
