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


def with_callback(config: PretrainConfig, name: str, callback: Callback) -> None:
    """A run of recipes.pretrain with one more callback, the last."""
    trainer_of = training._trainer

    def with_one_more(*args: Any) -> Any:
        trainer: Any = trainer_of(*args)
        trainer.callbacks.append(callback)
        return trainer

    with patch.object(training, "_trainer", with_one_more):
        pretrain(dataclasses.replace(config, name=name))


def recipes_steps(config: PretrainConfig, name: str) -> list[float]:
    """Seconds per step of recipes.pretrain."""
    clock = StepClock()
    with_callback(config, name, clock)
    return clock.steps()


class BareLoop:
    """The shortest megatron-core loop: batches are in memory, nothing is logged. Process groups exist."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        dtype = resolve_dtype(config.trainer.precision)
        gpt = build_gpt_model(config.model, config.parallel, dtype).to(device)
        initialize_weights(gpt, config.model, config.seed)
        self.halves = step_of(build_engine(gpt, config, dtype), config, device)
        samples, length = config.trainer.global_batch_size, config.data.seq_length
        self.tokens = torch.randint(0, config.model.vocab_size, (16, samples, length + 1), device=device)
        self.loss_mask = torch.ones(samples, length, device=device)
        self.done = 0

    def step(self) -> None:
        batch = self.tokens[self.done % 16]
        inputs = {"tokens": batch[:, :-1].contiguous(), "labels": batch[:, 1:].contiguous()}
        self.halves.gradients({**inputs, "loss_mask": self.loss_mask})
        self.halves.update()
        self.done += 1


def bare_steps(config: PretrainConfig, steps: int) -> list[float]:
    """Seconds per step of the bare loop."""
    world, device = World(), device_of(World())
    init_process_group(world)
    init_model_parallel(config.parallel, config.seed)
    loop, clock = BareLoop(config, device), StepClock()
    for _ in range(steps + WARM_UP):
        loop.step()
        clock.step_done()
    training._leave(0)
    return clock.steps()


class Paired(Callback):
    """The last callback of a run: after each of its steps, one of the bare loop, and the times of both."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.ours: list[tuple[float, float]] = []
        """Of each step, seconds by the clock and of this process's threads."""
        self.bare: list[tuple[float, float]] = []

    def on_train_start(self, *_: Any) -> None:
        self.loop = BareLoop(self.config, device_of(World()))
        self.began = _times()

    def on_train_batch_end(self, *_: Any) -> None:
        ended = _times()
        self.ours.append((ended[0] - self.began[0], ended[1] - self.began[1]))
        self.loop.step()
        self.began = _times()
        self.bare.append((self.began[0] - ended[0], self.began[1] - ended[1]))

    def ratios(self) -> list[tuple[float, float]]:
        """Ours over bare, by the clock and by the processor, over every so many steps as have one logged."""
        every = self.config.trainer.log_every_n_steps
        begins = range(WARM_UP, len(self.ours) - every + 1, every)
        return [
            (
                _sum(self.ours, begin, every, 0) / _sum(self.bare, begin, every, 0),
                _sum(self.ours, begin, every, 1) / _sum(self.bare, begin, every, 1),
            )
            for begin in begins
        ]


def _sum(steps: list[tuple[float, float]], begin: int, count: int, kind: int) -> float:
    return sum(step[kind] for step in steps[begin : begin + count])


def _times() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def run_paired(config: PretrainConfig, name: str, json: Path | None) -> None:
    """Trains once, with a bare step after each of the run's, and prints the ratios."""
    paired = Paired(config)
    with_callback(config, name, paired)
    ratios = paired.ratios()
    clock, processor = ([ratio[kind] for ratio in ratios] for kind in (0, 1))
    seconds = [statistics.mean(step[1] for step in steps[WARM_UP:]) for steps in (paired.ours, paired.bare)]
    every = config.trainer.log_every_n_steps
    print(f"recipes  {1000 * seconds[0]:8.1f} ms of the processor per step")
    print(f"bare     {1000 * seconds[1]:8.1f} ms")
    print(
        f"ratio    {statistics.median(clock):8.3f} by the clock, {statistics.median(processor):.3f} by the "
        f"processor (medians of {len(ratios)} times {every} steps; {min(processor):.3f} to "
        f"{max(processor):.3f})"
    )
    record(
        json,
        who="trainer over bare loop, paired",
        ratio=statistics.median(clock),
        processor_ratio=statistics.median(processor),
        windows=len(ratios),
        trainer_ms=1000 * seconds[0],
        bare_ms=1000 * seconds[1],
    )


def run(options: argparse.Namespace) -> None:
    """Measures in turns and prints the ratio."""
    ours: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        config = prepare(options.data or Path(temporary), options.overrides, options.steps)
        validate_pretrain(config)
        if options.paired:
            run_paired(config, f"step_time_{os.getpid()}", options.json)
            return
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
