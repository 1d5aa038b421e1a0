"""Training steps through the recipes and in a bare megatron-core loop, in turns."""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from lightning.pytorch import Callback

import recipes.training.fit as training
from benchmarks.records import record
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.config.world import World
from recipes.data.corpus.write import make_corpus
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer.train import train_tokenizer
from recipes.model.build import build_gpt_model
from recipes.model.init import initialize_weights
from recipes.parallel.setup import device_of, init_model_parallel, init_process_group, resolve_dtype
from recipes.training.cuda_graph import captures_steps, step_of, stream_for_training
from recipes.training.engine import build_engine
from recipes.training.run import pretrain

WARM_UP = 10
WINDOW = 10


class StepClock(Callback):
    """Seconds per step, over WINDOW steps each."""

    def __init__(self) -> None:
        self.seen = 0
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.step_done()

    def step_done(self) -> None:
        self.seen += 1
        if self.seen % WINDOW == 0:
            torch.cuda.synchronize()
            self.times.append(time.perf_counter())

    def steps(self) -> list[float]:
        """Without the first WARM_UP steps."""
        windows = [later - earlier for earlier, later in pairwise(self.times)]
        return [seconds / WINDOW for seconds in windows[WARM_UP // WINDOW - 1 :]]


def prepare(directory: Path, overrides: list[str], steps: int) -> PretrainConfig:
    """A generated corpus, tokenized, unless the directory has them, and the run's configuration."""
    if not (directory / "train_hi.idx").exists():
        write_data(directory)
    return compose(
        "pretrain",
        [
            "experiment=quickstart",
            f"data_dir={directory}",
            "trainer.limit_val_batches=1",
            "trainer.val_check_interval=null",
            f"output_dir={directory}",
            f"trainer.max_steps={steps + WARM_UP + 1}",
            "trainer.checkpoint.every_n_steps=null",
            "save_nemo=false",
            *overrides,
        ],
    )


def write_data(directory: Path) -> None:
    """What the quick start's run reads."""
    make_corpus(directory / "corpus", size=4_000_000, seed=1, world_seed=1, people=32, force=False)
    texts = [directory / "corpus" / f"train.{language}.jsonl" for language in ("en", "hi")]
    train_tokenizer(texts, directory / "tokenizer", vocab_size=2048, model_type="bpe")
    for part in ("valid", "train"):  # The last is the sign that all is there.
        for language in ("en", "hi"):
            text = directory / "corpus" / f"{part}.{language}.jsonl"
            preprocess([text], directory / "tokenizer.model", directory / f"{part}_{language}")


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
    engine = build_engine(gpt, config, dtype)
    halves = step_of(engine, config, device)
    samples, length = config.trainer.global_batch_size, config.data.seq_length
    tokens = torch.randint(0, config.model.vocab_size, (16, samples, length + 1), device=device)
    loss_mask = torch.ones(samples, length, device=device)
    clock = StepClock()
    for step in range(steps + WARM_UP):
        batch = tokens[step % 16]
        inputs = {"tokens": batch[:, :-1].contiguous(), "labels": batch[:, 1:].contiguous()}
        halves.gradients({**inputs, "loss_mask": loss_mask})
        halves.update()
        clock.step_done()
    training._leave(0)
    return clock.steps()


def run(options: argparse.Namespace) -> None:
    """Measures in turns and prints the ratio."""
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        config = prepare(options.data or Path(temporary), options.overrides, options.steps)
        validate_pretrain(config)
        for turn in range(options.turns):
            with stream_for_training(config, World()):
                bare += bare_steps(config, options.steps)
            ours += recipes_steps(config, f"step_time_{os.getpid()}_{turn}")
    ratio = statistics.median(ours) / statistics.median(bare)
    print(
        f"recipes  {1000 * statistics.median(ours):8.2f} ms per step (median of {len(ours)} times {WINDOW})"
    )
    print(
        f"bare     {1000 * statistics.median(bare):8.2f} ms per step (median of {len(bare)} times {WINDOW})"
    )
    how = "steps as CUDA graphs in both" if captures_steps(config) else "no CUDA graphs"
    print(f"ratio    {ratio:8.3f}, {how}")
    record(
        options.json,
        who="trainer over bare loop",
        ratio=ratio,
        trainer_ms=1000 * statistics.median(ours),
        bare_ms=1000 * statistics.median(bare),
        cuda_graph=captures_steps(config),
    )
